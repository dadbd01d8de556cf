#pragma once
// What the GPU tests and benchmarks share: checked CUDA calls, device buffers, random data.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#define LH_CUDA(call)                                                    \
  do {                                                                   \
    const cudaError_t lh_error = (call);                                 \
    if (lh_error != cudaSuccess) {                                       \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, \
                   cudaGetErrorString(lh_error));                        \
      std::exit(1);                                                      \
    }                                                                    \
  } while (false)

namespace longhaul::test {

template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t count) : count_(count) {
    LH_CUDA(cudaMalloc(&data_, count * sizeof(T) + 16));
  }
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) {
    LH_CUDA(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(other.count_) {}
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }
  T* get() const { return data_; }
  size_t size() const { return count_; }
  void fill_byte(int value) const { LH_CUDA(cudaMemset(data_, value, count_ * sizeof(T))); }
  std::vector<T> to_host() const {
    std::vector<T> host(count_);
    LH_CUDA(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

// Normal numbers times `scale`, the same for the same seed.
void fill_normal(__nv_bfloat16* data, size_t count, uint64_t seed, float scale);

}  // namespace longhaul::test
