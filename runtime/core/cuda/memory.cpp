#include "runtime/core/cuda/memory.h"

#include <algorithm>
#include <utility>

namespace longhaul::cuda {
namespace {

constexpr double kMiB = 1048576.0;

const char* what_helps(MemoryUse use) {
  switch (use) {
    case MemoryUse::weights:
      return "every GPU holds all weights: --dtype bf16 or a larger GPU helps";
    case MemoryUse::exchange:
      return "every GPU receives all keys of a layer: shorter or fewer prompts at once need less";
    case MemoryUse::kv_cache:
      return "more ranks (--cp) or fewer prompts at once need less";
    default:
      return "more ranks (--cp) or a smaller --chunk need less";
  }
}

[[noreturn]] void out_of_memory(int64_t bytes, const char* what, MemoryUse use) {
  (void)cudaGetLastError();
  size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  fail(ExitCode::resource,
       "out of GPU memory: {:.1f} MiB asked for {}, {:.1f} of {:.1f} MiB are free; {}",
       static_cast<double>(bytes) / kMiB, what, static_cast<double>(free) / kMiB,
       static_cast<double>(total) / kMiB, what_helps(use));
}

}  // namespace

Buffer::Buffer(int64_t bytes, const char* what, MemoryUse use) : bytes_(bytes), use_(use) {
  LH_CHECK(bytes >= 0, "{} bytes for {}", bytes, what);
  if (bytes == 0) return;
  const cudaError_t error = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    data_ = nullptr;
    bytes_ = 0;
    out_of_memory(bytes, what, use);
  }
  LH_CUDA(error);
  account_memory(use_, bytes_);
}

Buffer& Buffer::operator=(Buffer&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  std::swap(use_, o.use_);
  return *this;
}

void Buffer::reset() noexcept {
  if (data_ == nullptr) return;
  (void)cudaFree(data_);  // an error here is of earlier work, and shows where that is waited for
  account_memory(use_, -bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

DeviceTensor::DeviceTensor(DType dtype, Shape shape, const char* what, MemoryUse use)
    : buffer_(std::max<int64_t>(shape.num_elements() * dtype_size(dtype), 1), what, use),
      view_{buffer_.data(), dtype, shape} {}

PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t error = cudaHostAlloc(&data_, static_cast<size_t>(bytes), cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    fail(ExitCode::resource, "out of page-locked host memory: {:.1f} MiB asked for",
         static_cast<double>(bytes) / kMiB);
  }
  LH_CUDA(error);
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}
PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

void Arena::reserve(int64_t bytes, const char* what) {
  used_ = 0;
  if (memory_.bytes() >= bytes) return;
  memory_.reset();
  memory_ = Buffer(bytes, what, MemoryUse::activations);
}

void* Arena::take_bytes(int64_t bytes) {
  LH_CHECK(bytes >= 0, "{} bytes", bytes);
  const int64_t at = used_;
  used_ += (bytes + 255) / 256 * 256;
  peak_ = std::max(peak_, used_);
  if (memory_.data() == nullptr) return nullptr;
  LH_CHECK(used_ <= memory_.bytes(), "{} bytes in a scratch of {}", used_, memory_.bytes());
  return static_cast<std::byte*>(memory_.data()) + at;
}

TensorView Arena::take(DType dtype, Shape shape) {
  return {take_bytes(shape.num_elements() * dtype_size(dtype)), dtype, shape};
}

}  // namespace longhaul::cuda
