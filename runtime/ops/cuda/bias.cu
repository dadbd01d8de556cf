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

}  // namespace

void add_bias(float* out, const void* bias, int64_t rows, int64_t features, int64_t out_stride,
              cudaStream_t stream) {
  if (rows == 0) return;
  add_bias_kernel<<<blocks_for(rows, 1), kThreads, 0, stream>>>(
      out, static_cast<const bfloat*>(bias), rows, features, out_stride);
  LH_CUDA_LAUNCH("add_bias");
}

}  // namespace longhaul::ops::cuda
