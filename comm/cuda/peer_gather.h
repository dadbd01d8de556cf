#pragma once
// The gather between GPUs of one host that map each other's memory. No multiprocessor moves large
// segments: copy engines push them, and a signal follows each peer's last one. Small gathers are
// stored by a kernel on the caller's stream, which saves the way over another stream.

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "comm/cuda/copy_many.h"
#include "comm/cuda/gather_base.h"
#include "comm/cuda/peer_kernels.h"
#include "comm/cuda/peer_memory.h"
#include "comm/cuda/signals.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::comm::cuda {

// The thresholds come from measurements on four H200 (tests/gpu/comm/comm_bench.cpp).
struct PeerOptions {
  // Gathers that send at most so much, to all peers together, go by a kernel.
  int64_t kernel_push_bytes = int64_t{4} << 20;
  // Gathers that send at least so much to a peer on average signal it at once, which costs 8 us a
  // peer; others signal all peers at the end.
  int64_t early_signal_bytes = int64_t{64} << 20;
  int64_t copy_bytes = 0;                 // longest copy; 0: as long as the segments are
  int few_copies = CopyList::kFewCopies;  // CopyList::enqueue
  bool memory_operations = true;          // Signals
  bool signal_only_by_kernel = false;     // start_signal_only
  // For tests: flags even where a kernel that waits could keep others from sending, were it large;
  // and the wrap of the counter.
  bool flags_always = false;
  uint32_t first_epoch = 0;
};

class PeerGather final : public GatherBase {
 public:
  // Collective. Null on all ranks where they cannot map each other's memory; `why` (may be null)
  // then says why.
  static std::unique_ptr<PeerGather> make(Communicator& comm, const PeerOptions& options,
                                          std::string* why);
  ~PeerGather() override;

  std::string_view name() const override { return "peer"; }
  void reserve(int64_t bytes) override;
  int64_t capacity() const override { return buffers_[0] ? buffers_[0]->bytes() : 0; }
  void* buffer(int parity) const override;
  std::span<void* const> peer_buffers(int parity) const override;
  void set_plan(GatherPlan plan) override;
  void start(int parity, cudaStream_t stream, OpLabel label) override;
  void start_signal_only(int parity, cudaStream_t stream, OpLabel label) override;
  void finish(cudaStream_t stream) override;
  Flags flags() const override;
  cudaStream_t sending_stream() const override { return by_copies_ ? push_.get() : nullptr; }
  void check() override;

 private:
  // The pieces of a small plan, in device memory. Two take turns, so that a new plan may be made
  // while the device still works on the old one.
  struct PieceTable {
    longhaul::cuda::Buffer device;
    longhaul::cuda::PinnedBuffer host;
    longhaul::cuda::Event uploaded, used;
    int count = -1;      // -1: this plan goes by copy engines
    bool fresh = false;  // uploaded, and no stream has waited for that yet
  };

  PeerGather(Communicator& comm, const PeerOptions& options, std::unique_ptr<PeerMemory> words);
  bool probe();  // collective: do signals arrive?
  void push_by_kernel(cudaStream_t stream);
  void push_by_copies(cudaStream_t stream);
  void follow_copies(cudaStream_t stream);

  const PeerOptions options_;
  std::unique_ptr<PeerMemory> words_;  // flags[size], probes[size], the kernel's counter
  std::array<std::unique_ptr<PeerMemory>, 2> buffers_;
  std::vector<uint32_t*> own_flags_;       // [size - 1] of the others, in this rank's memory
  std::vector<uint32_t*> flags_at_peers_;  // [size] of this rank, own included
  Signals signals_;
  longhaul::cuda::Stream release_;
  longhaul::cuda::Stream push_;
  longhaul::cuda::Event pushed_;  // the last gather's copies and signals are done
  longhaul::cuda::Event ready_;
  std::array<PieceTable, 2> tables_;
  int table_ = 0;
  CopyList copies_;
  uint32_t epoch_;
  bool by_copies_ = false;  // the gather started last
};

}  // namespace longhaul::comm::cuda
