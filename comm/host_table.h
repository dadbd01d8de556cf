#pragma once
// The table in which the ranks of one host see each other from before MPI_Init until after
// MPI_Finalize: a small file in /dev/shm, mapped by all of them and unlinked as soon as the last
// has come. Its name comes from the launcher's job, so no communication is needed to find it.

#include <atomic>
#include <cstdint>
#include <string>

#include "comm/launcher.h"
#include "comm/rank_record.h"

namespace longhaul::comm {

class HostTable {
 public:
  // Shared by all ranks of the host (zero at first).
  struct Header {
    std::atomic<uint32_t> attached;
    // Whoever ends the job sets this to the exit code first, and speaks; all others keep silent.
    std::atomic<uint32_t> ending;
    std::atomic<int32_t> stop_signal;  // a rank was told to stop
    std::atomic<uint64_t> token;       // random: tells this host's table from others'
    // What this host's leader knows of the other hosts' ranks (comm/watchdog.h).
    std::atomic<uint32_t> remote_failed;
    std::atomic<uint32_t> remote_unclean;
    std::atomic<uint32_t> remote_alike;  // of those, with the failure in remote_hash
    std::atomic<uint64_t> remote_hash;
    std::atomic<int32_t> remote_lowest_failed;
  };

  // Without a launcher, or where it does not say how many ranks this host has, or /dev/shm cannot
  // be used, the table is this process's own with one slot, and `shared()` is false.
  explicit HostTable(const Launcher& launcher);
  ~HostTable();
  HostTable(const HostTable&) = delete;
  HostTable& operator=(const HostTable&) = delete;

  Header& header() { return *static_cast<Header*>(memory_); }
  RankRecord& record(int slot);
  int slots() const { return slots_; }
  int self() const { return self_; }
  bool shared() const { return shared_; }
  uint64_t token();
  uint64_t pid_namespace() const { return pid_namespace_; }
  // Takes the name away before the job ends. Async-signal-safe, harmless when called again.
  void unlink_name();
  // True for the one caller on this host who may speak and end the job.
  bool claim_ending(int exit_code);

 private:
  bool map_shared(const Launcher& launcher);

  void* memory_ = nullptr;
  size_t bytes_ = 0;
  int slots_ = 1;
  int self_ = 0;
  bool shared_ = false;
  uint64_t pid_namespace_ = 0;
  char path_[64] = {};
};

}  // namespace longhaul::comm
