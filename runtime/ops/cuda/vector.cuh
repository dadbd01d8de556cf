#pragma once
// What the kernels of this folder share: 16-byte accesses, conversions, launch sizes.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "runtime/core/cuda/check.h"
#include "runtime/core/dtype.h"
#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

using bfloat = __nv_bfloat16;

// Elements of T that one 16-byte access moves.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bfloat x) {
  return __bfloat162float(x);
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bfloat from_float<bfloat>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

// N consecutive elements in registers; memory is touched in accesses of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T at[N];
};

template <class T, int N>
__device__ inline void unpack(const Pack<T, N>& from, float (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(from.at[i]);
}
template <class T, int N>
__device__ inline Pack<T, N> pack(const float (&from)[N]) {
  Pack<T, N> to;
  if constexpr (std::is_same_v<T, bfloat> && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(from[i], from[i + 1]);
      to.at[i] = two.x;
      to.at[i + 1] = two.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to.at[i] = from_float<T>(from[i]);
  }
  return to;
}

template <int N, class T>
__device__ inline Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ inline void store(T* p, const Pack<T, N>& v) {
  *reinterpret_cast<Pack<T, N>*>(p) = v;
}

// The sum over groups of `lanes` neighbours (a power of two) of a warp; every lane gets it, and
// always the same bits.
template <int lanes>
__device__ inline float group_sum(float x) {
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffU, x, step);
  return x;
}

// 1 / sqrt(mean + eps): for float32 in float64 as on a CPU; for bf16 in float32, whose last digits
// bf16 cannot see.
template <class T>
__device__ inline float rms_scale(float sum_of_squares, int64_t n, double eps) {
  if constexpr (std::is_same_v<T, float>) {
    const double mean = static_cast<double>(sum_of_squares) / static_cast<double>(n);
    return static_cast<float>(1.0 / sqrt(mean + eps));
  } else {
    return rsqrtf(__fdividef(sum_of_squares, static_cast<float>(n)) + static_cast<float>(eps));
  }
}

inline bool aligned16(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Blocks for `tasks` when a block takes `tasks_a_block`; kernels loop where this is capped.
inline unsigned blocks_for(int64_t tasks, int64_t tasks_a_block) {
  return static_cast<unsigned>(
      std::min<int64_t>((tasks + tasks_a_block - 1) / tasks_a_block, 0x7fffffff));
}

// The device's type of a tensor of floats: with_float(dtype, [&](auto zero) {...}).
template <class F>
void with_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bfloat{});
    case DType::f16:
      return f(__half{});
    default:
      break;
  }
  LH_CHECK(false, "no GPU kernel for {}", dtype_name(dtype));
}
// The types a layer computes in.
template <class F>
void with_compute(DType dtype, F&& f) {
  LH_CHECK(dtype == DType::f32 || dtype == DType::bf16, "GPUs compute in f32 or bf16, not {}",
           dtype_name(dtype));
  if (dtype == DType::f32) return f(float{});
  f(bfloat{});
}

}  // namespace longhaul::ops::cuda
