#pragma once
// Host tables that go to the device in one copy a step.

#include <cstddef>
#include <span>
#include <vector>

#include "runtime/core/cuda/memory.h"

namespace longhaul::cuda {

class StepTables {
 public:
  // Forgets the tables; the copy of the last upload must be done.
  void restart() { bytes_.clear(); }
  size_t add(const void* data, size_t bytes);  // -> handle for at()
  template <class T>
  size_t add(std::span<const T> v) {
    return add(v.data(), v.size_bytes());
  }
  template <class T>
  size_t add(const std::vector<T>& v) {
    return add(v.data(), v.size() * sizeof(T));
  }
  // May allocate. Ordered on the stream, through page-locked memory.
  void upload(cudaStream_t stream);
  template <class T>
  T* at(size_t handle) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(device_.data()) + handle);
  }

 private:
  std::vector<std::byte> bytes_;
  PinnedBuffer pinned_;
  Buffer device_;
};

}  // namespace longhaul::cuda
