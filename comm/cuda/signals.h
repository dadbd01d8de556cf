#pragma once
// Words in device memory by which GPUs tell each other how far they are, in the order of streams.

#include <cuda_runtime.h>

#include <cstdint>
#include <span>
#include <vector>

namespace longhaul::comm::cuda {

class Signals {
 public:
  // `memory_operations`: by the driver's stream memory operations, which take no multiprocessor;
  // else, or where the driver has none, by one-warp kernels.
  explicit Signals(bool memory_operations);
  bool memory_operations() const { return batch_ != nullptr; }

  // At most kMostPeers words each.
  // All earlier work of the stream is visible to whoever reads one of these values.
  void write(cudaStream_t stream, std::span<uint32_t* const> words, uint32_t value);
  // Later work waits until each word is at `value` or beyond (difference as a signed number).
  void wait(cudaStream_t stream, std::span<uint32_t* const> words, uint32_t value);

 private:
  void* batch_ = nullptr;  // cuStreamBatchMemOp
};

}  // namespace longhaul::comm::cuda
