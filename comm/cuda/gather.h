#pragma once
// The exchange of context parallelism on GPUs: a ragged all-gather in place.
//
// Every rank holds buffers of the same size and layout, and owns segments of them. After a gather
// the segments that a rank needs hold their owner's bytes. Three implementations: "peer" (copy
// engines push into the memory of the host's other GPUs), "nccl" (grouped send and receive) and
// "staged" (through page-locked host memory and the host's communicator).
//
// The life of one gather, epoch e, on a rank:
//
//   stream: [kernels write own segments of buffer(p)] start(p, stream) [work that reads own
//           segments] finish(stream) [work that reads what came]
//
// There are two buffers, and gathers must use them in turn (next_parity), across batches and plans
// too. This alone makes their re-use safe without further signals, under this invariant:
//
//   No byte and no signal of epoch e + 1 leaves a rank before it has seen the signals of epoch e of
//   ALL ranks, and every rank signals every rank in every epoch, whether it has bytes for it or
//   not.
//
// Why: bytes of epoch e + 1 go where those of epoch e - 1 lay. A peer has signalled epoch e, so its
// stream had come to start() of e, behind all its reads of e - 1. And who has seen all signals of e
// knows that its own copies of e - 1 are done (each peer waited for them before it signalled e), so
// that its own segments of that buffer may be written again. The implementations keep the invariant
// as long as the caller
//   - alternates parity and calls finish() for each start() before the next one,
//   - uses one stream, or streams ordered by events, for start(), finish() and all that touches the
//     buffers, so that reads of epoch e - 1 stand before start() of e in stream order.
//
// Nothing here blocks the host but set-up, reserve() and "staged". A GPU that waits for a hung rank
// waits until the job ends: the host must wait through wait_device (comm/cuda/device_wait.h), where
// the watchdog looks on.

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace longhaul::comm::cuda {

struct Segment {
  int64_t offset;  // bytes into the buffer
  int64_t bytes;
};

// Both ends of a transfer name the same segments: send[r] here is recv[here] on rank r. Segments of
// one list must not overlap; their order does not matter, and adjacent ones travel as one.
struct GatherPlan {
  std::vector<std::vector<Segment>> send;  // [size] own segments that rank r needs (own: empty)
  std::vector<std::vector<Segment>> recv;  // [size] segments needed from rank r
};

class Gather {
 public:
  // Collective, as its making was. The gathers started must have been waited for.
  virtual ~Gather() = default;
  virtual std::string_view name() const = 0;  // "peer", "nccl", "staged"
  // Collective: two buffers of at least so much on every rank. The contents are lost when they
  // grow. All gathers must be done on the device. Error(resource) when there is no room.
  virtual void reserve(int64_t bytes) = 0;
  virtual int64_t capacity() const = 0;  // bytes of each buffer
  virtual void* buffer(int parity) const = 0;
  virtual int next_parity() const = 0;  // that the next start() must use
  // [size] addresses that kernels of this rank may use (own included); empty where the peers'
  // memory cannot be addressed.
  virtual std::span<void* const> peer_buffers(int parity) const = 0;
  // For the gathers that follow; no communication. Costs host time: once a batch, not a layer.
  virtual void set_plan(GatherPlan plan) = 0;
  // Once the stream has come this far, own segments go out.
  virtual void start(int parity, cudaStream_t stream, OpLabel label) = 0;
  // For small gathers where peer_buffers() is not empty: kernels before this point of the stream
  // have stored the segments into the peers' buffers already; only signals go out.
  virtual void start_signal_only(int parity, cudaStream_t stream, OpLabel label) = 0;
  // Later work on the stream sees everything received. "staged" blocks the host here.
  virtual void finish(cudaStream_t stream) = 0;

  // Of the gather started last: flags[r] - value >= 0 (signed) once rank r's segments are here, for
  // kernels between start() and finish() that wait by themselves (with acquire loads of system
  // scope); own rank's entry counts too. Null flags where a kernel cannot wait by itself.
  struct Flags {
    const uint32_t* flags;
    uint32_t value;
  };
  virtual Flags flags() const = 0;
  // Where the segments of the gather started last go out, for timing; null: the caller's stream.
  virtual cudaStream_t sending_stream() const { return nullptr; }
  virtual void check() = 0;  // asynchronous errors; throws Error(peer_lost)
  virtual Communicator::Traffic traffic() const = 0;
};

// Collective. `name`: "peer", "nccl", "staged" or "auto". "auto" tries "peer" and "nccl", takes the
// faster by a short measurement on which all ranks agree, and falls back on "staged". `why` (may be
// null) receives one line: the choice, the figures, and why others were refused. `comm` must
// outlive the gather. Throws Error(usage) for a name that is unknown or cannot run here, with the
// reason. The calling thread's device must be set (open_device).
std::unique_ptr<Gather> make_gather(Communicator& comm, std::string_view name, std::string* why);

}  // namespace longhaul::comm::cuda
