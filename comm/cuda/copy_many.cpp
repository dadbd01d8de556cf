#include "comm/cuda/copy_many.h"

#include <atomic>

#include "runtime/core/cuda/check.h"

namespace longhaul::comm::cuda {
namespace {

// False where the driver is too old for batches, or would not take this one.
bool enqueue_batch(const std::vector<void*>& to, const std::vector<const void*>& from,
                   const std::vector<size_t>& bytes, cudaStream_t stream) {
#if CUDART_VERSION >= 12080
  static std::atomic<bool> refused{false};
  if (refused.load(std::memory_order_relaxed)) return false;
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  size_t first = 0;
#if CUDART_VERSION >= 13000
  const cudaError_t error = cudaMemcpyBatchAsync(to.data(), from.data(), bytes.data(), to.size(),
                                                 &attributes, &first, 1, stream);
#else
  size_t failed = 0;
  const cudaError_t error = cudaMemcpyBatchAsync(
      const_cast<void**>(to.data()), const_cast<void**>(from.data()),
      const_cast<size_t*>(bytes.data()), to.size(), &attributes, &first, 1, &failed, stream);
#endif
  if (error == cudaErrorNotSupported || error == cudaErrorCallRequiresNewerDriver) {
    (void)cudaGetLastError();
    refused.store(true, std::memory_order_relaxed);
    return false;
  }
  LH_CUDA(error);
  return true;
#else
  (void)to, (void)from, (void)bytes, (void)stream;
  return false;
#endif
}

}  // namespace

void CopyList::clear() {
  to_.clear();
  from_.clear();
  bytes_.clear();
}

void CopyList::add(void* to, const void* from, int64_t bytes) {
  for (; longest_ > 0 && bytes > longest_; bytes -= longest_) {
    to_.push_back(to);
    from_.push_back(from);
    bytes_.push_back(static_cast<size_t>(longest_));
    to = at(to, longest_);
    from = at(from, longest_);
  }
  if (bytes == 0) return;
  to_.push_back(to);
  from_.push_back(from);
  bytes_.push_back(static_cast<size_t>(bytes));
}

void CopyList::add_segments(void* to, const void* from, const std::vector<Segment>& segments) {
  for (const Segment& s : segments) add(at(to, s.offset), at(from, s.offset), s.bytes);
}

void CopyList::add_pack(void* packed, const void* buffer, const std::vector<Segment>& segments) {
  int64_t packed_at = 0;
  for (const Segment& s : segments) {
    add(at(packed, packed_at), at(buffer, s.offset), s.bytes);
    packed_at += s.bytes;
  }
}

void CopyList::add_unpack(void* buffer, const void* packed, const std::vector<Segment>& segments) {
  int64_t packed_at = 0;
  for (const Segment& s : segments) {
    add(at(buffer, s.offset), at(packed, packed_at), s.bytes);
    packed_at += s.bytes;
  }
}

void CopyList::enqueue(cudaStream_t stream, int few) const {
  if (static_cast<int>(to_.size()) > few && enqueue_batch(to_, from_, bytes_, stream)) return;
  for (size_t i = 0; i < to_.size(); ++i)
    LH_CUDA(cudaMemcpyAsync(to_[i], from_[i], bytes_[i], cudaMemcpyDefault, stream));
}

}  // namespace longhaul::comm::cuda
