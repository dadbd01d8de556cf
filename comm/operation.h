#pragma once
// How an operation of comm/communicator.h becomes messages, the same over every transport.
//
// An operation is a list of rounds; a round is a set of messages between pairs of ranks and,
// once all have arrived, a local step. Every message begins with a Fingerprint of the operation,
// so that ranks that disagree about what comes next get an error that names both, and never data
// that belongs to something else.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace longhaul::comm {

enum class OpKind : uint8_t { all_gather, all_to_all, send_recv, all_reduce, broadcast, barrier };
const char* kind_name(OpKind kind);

// Label of the barrier at a session's end: a rank that is there ahead of the others ended early.
inline constexpr const char* kEndOfRun = "end of run";

// What both ends of a message must agree on, besides `world_rank`, the sender's. Sent as it is.
struct Fingerprint {
  uint64_t group = 0;     // which communicator
  uint64_t sequence = 0;  // how many operations came before in that communicator
  int64_t bytes = 0;      // of this message
  int32_t world_rank = 0;
  int32_t layer = -1;
  int32_t detail = 0;  // root, or dtype and reduction
  uint16_t round = 0;
  OpKind kind = OpKind::barrier;
  uint8_t unused = 0;
  char name[24] = {};  // the label, cut to 23 characters

  bool same_operation(const Fingerprint& o) const;
  std::string to_string() const;  // allgather kv, layer 3 (all_gather #12)
};
static_assert(sizeof(Fingerprint) == 64);

struct SendPart {
  int peer;  // rank in the communicator
  const void* data;
  int64_t bytes;
};
struct ReceivePart {
  int peer;
  void* data;
  int64_t bytes;
};

struct Round {
  std::vector<SendPart> sends;
  std::vector<ReceivePart> receives;
  std::function<void()> then;  // may be empty
  int number = 0;              // the same at both ends of a message
};

struct Plan {
  OpKind kind;
  OpLabel label;
  int32_t detail = 0;
  std::vector<Round> rounds;
  std::unique_ptr<std::byte[]> scratch;
};

// The builders. Own parts are copied in the first round's place, at once, by the builder.
Plan plan_all_gather(int rank, int size, const void* send, int64_t send_bytes, void* recv,
                     std::span<const int64_t> recv_bytes, OpLabel label);
Plan plan_all_to_all(int rank, int size, const void* send, std::span<const int64_t> send_bytes,
                     void* recv, std::span<const int64_t> recv_bytes, OpLabel label);
Plan plan_send_recv(int rank, int size, const void* send, int64_t send_bytes, int to, void* recv,
                    int64_t recv_bytes, int from, OpLabel label);
// Sums are formed in rank order on one rank for each element, so every rank gets the same bits.
Plan plan_all_reduce(int rank, int size, void* data, int64_t count, DType dtype, ReduceOp op,
                     OpLabel label);
Plan plan_broadcast(int rank, int size, void* data, int64_t bytes, int root, OpLabel label);
Plan plan_barrier(int rank, int size, OpLabel label);

// One round on its way.
class Exchange {
 public:
  virtual ~Exchange() = default;        // gives up what has not arrived
  virtual bool advance() = 0;           // true once all has been sent and received; throws Error
  virtual int missing() const = 0;      // a rank of the communicator not yet heard from, or -1
  virtual uint64_t pieces() const = 0;  // messages or parts of messages done so far
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::unique_ptr<Exchange> post(const Fingerprint& fingerprint, const Round& round) = 0;
  // Lets others have the core until something may have happened; `turn` counts the calls of one
  // wait.
  virtual void pause(int turn) = 0;
};

}  // namespace longhaul::comm
