#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kUnroll = 4;

// Larger is better: the value's bits in an order that integers have (NaN below everything), then
// the lower index.
__device__ uint64_t rank_of(float value, uint32_t index) {
  const uint32_t bits = __float_as_uint(value == 0.F ? 0.F : value);  // -0 equals 0
  uint32_t key = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  if (value != value) key = 0;
  return static_cast<uint64_t>(key) << 32 | (0xffffffffU - index);
}

__device__ uint64_t larger(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

__device__ uint64_t warp_max(uint64_t x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(0xffffffffU, x, step));
  return x;
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    argmax_kernel(const float* logits, int32_t* out, int64_t rows, int64_t n) {
  __shared__ uint64_t shared[kThreads / 32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* x = logits + row * n;
    float best = 0;
    uint32_t best_index = 0;
    bool found = false;
    const auto take = [&](float value, uint32_t index) {
      // A thread's indexes rise: the first of equal ones stays. NaN is never larger.
      if (found ? value > best : value == value) {
        best = value;
        best_index = index;
        found = true;
      }
    };
    for (int64_t i = threadIdx.x * int64_t{N}; i < n; i += int64_t{kThreads} * N * kUnroll) {
      Pack<float, N> v[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (i + u * kThreads * N < n) v[u] = load<N>(x + i + u * kThreads * N);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (i + u * kThreads * N < n) {
#pragma unroll
          for (int j = 0; j < N; ++j)
            take(v[u].at[j], static_cast<uint32_t>(i + u * kThreads * N + j));
        }
    }
    uint64_t rank = warp_max(found ? rank_of(best, best_index) : 0);
    __syncthreads();  // the row before this one has been read by all
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = rank;
    __syncthreads();
    if (threadIdx.x < 32) {
      rank = warp_max(shared[threadIdx.x]);
      if (threadIdx.x == 0)
        out[row] = rank == 0 ? 0 : static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(rank));
    }
  }
}

}  // namespace

void argmax_rows(ConstTensorView logits, TensorView out, cudaStream_t stream) {
  LH_CHECK(logits.shape.rank() == 2 && logits.dtype == DType::f32 && out.dtype == DType::i32 &&
               out.shape == Shape({logits.shape[0]}) && logits.shape[1] > 0 &&
               logits.shape[1] < (int64_t{1} << 31),
           "logits {} {}, out {} {}", dtype_name(logits.dtype), logits.shape.to_string(),
           dtype_name(out.dtype), out.shape.to_string());
  const int64_t rows = logits.shape[0], n = logits.shape[1];
  if (rows == 0) return;
  const auto* x = static_cast<const float*>(logits.data);
  auto* y = static_cast<int32_t*>(out.data);
  if (aligned16(x) && n % 4 == 0)
    argmax_kernel<4><<<blocks_for(rows, 1), kThreads, 0, stream>>>(x, y, rows, n);
  else
    argmax_kernel<1><<<blocks_for(rows, 1), kThreads, 0, stream>>>(x, y, rows, n);
  LH_CUDA_LAUNCH("argmax_rows");
}

}  // namespace longhaul::ops::cuda
