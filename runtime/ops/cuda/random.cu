#include <cmath>

#include "runtime/ops/cuda/random.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;

// The arithmetic of runtime/io/random_checkpoint.cpp, step by step and never contracted, so that
// both make the same bits.
__device__ float random_value(uint64_t key, uint64_t index, float mean, float deviation) {
  constexpr uint64_t even = 0x0000ffff0000ffffULL;
  constexpr float inverse_deviation = 1.0F / 37837.2266F;
  uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z = z ^ (z >> 31);
  const uint64_t pairs = (z & even) + ((z >> 16) & even);
  const auto sum = static_cast<int32_t>((pairs & 0xffffffffU) + (pairs >> 32));
  const float normal = __fmul_rn(static_cast<float>(sum - 2 * 65535), inverse_deviation);
  return __fadd_rn(mean, __fmul_rn(deviation, normal));
}

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T* out, int64_t count, uint64_t key, float mean, float deviation) {
  const int64_t packs = count / N;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t p = thread; p < packs; p += static_cast<int64_t>(gridDim.x) * kThreads) {
    float v[N];
#pragma unroll
    for (int i = 0; i < N; ++i)
      v[i] = random_value(key, static_cast<uint64_t>(p * N + i), mean, deviation);
    store(out + p * N, pack<T>(v));
  }
  const int64_t tail = packs * N + thread;
  if (tail < count)
    out[tail] = from_float<T>(random_value(key, static_cast<uint64_t>(tail), mean, deviation));
}

}  // namespace

void fill_random(TensorView out, uint64_t key, float mean, float deviation, cudaStream_t stream) {
  // The largest of the numbers lies 3.4642 deviations from the mean.
  LH_CHECK(out.dtype != DType::f16 || std::fabs(mean) + 3.4643F * std::fabs(deviation) < 65520.0F,
           "mean {}, deviation {} in half precision", mean, deviation);
  const int64_t count = out.num_elements();
  if (count == 0) return;
  with_float(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* to = static_cast<T*>(out.data);
    if (aligned16(to))
      fill_kernel<kVector<T>>
          <<<blocks_for(count / kVector<T> + 1, kThreads * 4), kThreads, 0, stream>>>(
              to, count, key, mean, deviation);
    else
      fill_kernel<1><<<blocks_for(count, kThreads * 4), kThreads, 0, stream>>>(to, count, key, mean,
                                                                               deviation);
    LH_CUDA_LAUNCH("fill_random");
  });
}

}  // namespace longhaul::ops::cuda
