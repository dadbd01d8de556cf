#include "runtime/core/cuda/tables.h"

#include <cstring>

namespace longhaul::cuda {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

size_t StepTables::add(const void* data, size_t bytes) {
  const size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  bytes_.resize(at + bytes);
  if (bytes > 0) std::memcpy(bytes_.data() + at, data, bytes);
  return at;
}

void StepTables::upload(cudaStream_t stream) {
  const auto bytes = static_cast<int64_t>(bytes_.size());
  if (bytes == 0) return;
  if (pinned_.bytes() < bytes) {
    // Some room on top: the next step's tables are of about the same size.
    device_.reset();
    pinned_ = PinnedBuffer(bytes + bytes / 4 + 4096);
    device_ = Buffer(pinned_.bytes(), "the plans of a step", MemoryUse::activations);
  }
  std::memcpy(pinned_.data(), bytes_.data(), bytes_.size());
  LH_CUDA(cudaMemcpyAsync(device_.data(), pinned_.data(), bytes_.size(), cudaMemcpyHostToDevice,
                          stream));
}

}  // namespace longhaul::cuda
