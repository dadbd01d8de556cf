// What the library leaves to us around a product.

#include "runtime/ops/cuda/matmul.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(float* out, const bfloat* bias, int64_t rows, int64_t features,
                    int64_t out_stride) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (int64_t i = threadIdx.x; i < features; i += kThreads)
      out[row * out_stride + i] += to_float(bias[i]);
}

__global__ void __launch_bounds__(kThreads)
    count_different_kernel(const uint32_t* a, const uint32_t* b, int64_t words, uint32_t* count) {
  uint32_t mine = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < words;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    mine += a[i] != b[i];
  if (mine != 0) atomicAdd(count, mine);
}

}  // namespace

void count_different(const void* a, const void* b, int64_t bytes, uint32_t* count,
                     cudaStream_t stream) {
  const int64_t words = bytes / 4;
  count_different_kernel<<<blocks_for(words + 1, kThreads * 8), kThreads, 0, stream>>>(
      static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b), words, count);
  LH_CUDA_LAUNCH("count_different");
}

void add_bias(float* out, const void* bias, int64_t rows, int64_t features, int64_t out_stride,
              cudaStream_t stream) {
  if (rows == 0) return;
  add_bias_kernel<<<blocks_for(rows, 1), kThreads, 0, stream>>>(
      out, static_cast<const bfloat*>(bias), rows, features, out_stride);
  LH_CUDA_LAUNCH("add_bias");
}

}  // namespace longhaul::ops::cuda
