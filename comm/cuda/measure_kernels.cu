#include <algorithm>

#include "comm/cuda/measure_kernels.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::comm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr double kClocksPerMicrosecond = 1700;

// splitmix64 of the byte's word; the byte's own part of it.
__device__ uint8_t byte_at(uint64_t seed, int64_t place) {
  uint64_t h = seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(place >> 3);
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  h ^= h >> 31;
  return static_cast<uint8_t>(h >> (8 * (place & 7)));
}

__global__ void fill_kernel(uint8_t* buffer, int64_t offset, int64_t bytes, uint64_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < bytes; i += step)
    buffer[offset + i] = byte_at(seed, offset + i);
}

__global__ void check_kernel(const uint8_t* buffer, int64_t offset, int64_t bytes, uint64_t seed,
                             unsigned long long* wrong) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  unsigned long long mine = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < bytes; i += step)
    mine += buffer[offset + i] != byte_at(seed, offset + i);
  if (mine != 0) atomicAdd(wrong, mine);
}

__global__ void spin_kernel(long long clocks) {
  const long long start = clock64();
  while (clock64() - start < clocks) __nanosleep(200);
}

unsigned blocks_for(int64_t bytes) {
  return static_cast<unsigned>(std::clamp<int64_t>((bytes + kThreads - 1) / kThreads, 1, 2048));
}

}  // namespace

void fill_pattern(void* buffer, int64_t offset, int64_t bytes, uint64_t seed, cudaStream_t stream) {
  if (bytes == 0) return;
  fill_kernel<<<blocks_for(bytes), kThreads, 0, stream>>>(static_cast<uint8_t*>(buffer), offset,
                                                          bytes, seed);
  LH_CUDA_LAUNCH("fill_kernel");
}

void count_wrong(const void* buffer, int64_t offset, int64_t bytes, uint64_t seed,
                 unsigned long long* wrong, cudaStream_t stream) {
  if (bytes == 0) return;
  check_kernel<<<blocks_for(bytes), kThreads, 0, stream>>>(static_cast<const uint8_t*>(buffer),
                                                           offset, bytes, seed, wrong);
  LH_CUDA_LAUNCH("check_kernel");
}

void spin(double microseconds, cudaStream_t stream) {
  spin_kernel<<<1, 1, 0, stream>>>(static_cast<long long>(microseconds * kClocksPerMicrosecond));
  LH_CUDA_LAUNCH("spin_kernel");
}

}  // namespace longhaul::comm::cuda
