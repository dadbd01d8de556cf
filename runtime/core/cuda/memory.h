#pragma once
// Device memory as objects. Views of it are the TensorViews of host memory (runtime/core/tensor.h):
// their `data` is a device pointer; who holds one knows which.

#include <cstdint>

#include "runtime/core/cuda/check.h"
#include "runtime/core/memory.h"
#include "runtime/core/tensor.h"

namespace longhaul::cuda {

// cudaMalloc'ed bytes, uninitialised, 256-byte aligned. Out of memory throws Error(resource) that
// says how much was asked, for what (`what`), what is free, and which option needs less.
class Buffer {
 public:
  Buffer() = default;
  Buffer(int64_t bytes, const char* what, MemoryUse use);
  ~Buffer() { reset(); }
  Buffer(Buffer&& o) noexcept { *this = static_cast<Buffer&&>(o); }
  Buffer& operator=(Buffer&& o) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  void reset() noexcept;  // waits for the device, as cudaFree does

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  MemoryUse use_ = MemoryUse::activations;
};

class DeviceTensor {
 public:
  DeviceTensor() = default;
  DeviceTensor(DType dtype, Shape shape, const char* what, MemoryUse use);
  bool defined() const { return buffer_.data() != nullptr; }
  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }
  operator ConstTensorView() const { return view_; }
  int64_t num_bytes() const { return view_.num_bytes(); }

 private:
  Buffer buffer_;
  TensorView view_;
};

// Page-locked host memory, for copies that run beside the host's work.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& o) noexcept { *this = static_cast<PinnedBuffer&&>(o); }
  PinnedBuffer& operator=(PinnedBuffer&& o) noexcept;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The scratch of one step: pieces of one allocation, all given back together. A step takes its
// pieces by one function that is run twice: on a measuring arena, then on the real one.
class Arena {
 public:
  Arena() = default;  // measures: pieces have no memory
  // Throws Error(resource) as Buffer does. Reuses the memory when it is enough.
  void reserve(int64_t bytes, const char* what);
  void restart() { used_ = 0; }  // pieces given so far are void
  TensorView take(DType dtype, Shape shape);
  void* take_bytes(int64_t bytes);
  int64_t used() const { return used_; }  // so far, with alignment
  // What was taken after `mark = used()` may be taken anew: work of one stream, one after another.
  void rewind(int64_t mark) { used_ = mark; }
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace longhaul::cuda
