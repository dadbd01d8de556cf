#pragma once
// What one rank shows the others: written by it, read by all ranks of its host (through shared
// memory) and, sent on by a leader, by those of other hosts.

#include <atomic>
#include <cstdint>
#include <string>

#include "comm/operation.h"

namespace longhaul::comm {

enum class RankState : int32_t {
  absent = 0,   // has not come yet (a fresh table is all zero)
  computing,    // busy by itself: must tick
  in_init,      // inside MPI_Init, which returns when all ranks are in it
  waiting,      // in an operation, for others
  in_finalize,  // inside MPI_Finalize, likewise
  finalized,    // waits until all ranks of the host are out of MPI_Finalize
  failed,       // met an error, which is about to be reported (failure_code stays set)
  ended,
};

struct RankBody {
  int32_t world_rank = -1;
  int32_t pid = 0;
  RankState state = RankState::absent;
  int32_t layer = -1;
  int32_t missing = -1;         // waiting: a world rank not yet heard from
  int32_t failure_code = 0;     // failed
  int32_t failure_unclean = 0;  // failed: with messages left half-way
  int32_t unused = 0;
  uint64_t failure_hash = 0;   // failed: of the message
  uint64_t pid_namespace = 0;  // in which `pid` means something
  Fingerprint wait;            // waiting: in which operation; else the last one begun
  char phase[24] = {};
  char operation[32] = {};  // the last step or operation, with `layer`

  std::string place() const;  // "phase prefill, attention, layer 7"
};
static_assert(sizeof(RankBody) % 8 == 0);

// Lives in memory shared by processes; all zero is a valid, absent rank. One writer at a time.
class RankRecord {
 public:
  void write(const RankBody& body);
  RankBody read() const;        // consistent, unless the writer was stopped half-way
  std::atomic<uint64_t> beats;  // of the rank's helper thread
  std::atomic<uint64_t> ticks;  // of its Progress

 private:
  static constexpr size_t kWords = sizeof(RankBody) / 8;
  std::atomic<uint64_t> version_;  // odd while being written
  std::atomic<uint64_t> words_[kWords];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

}  // namespace longhaul::comm
