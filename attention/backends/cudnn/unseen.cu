#include <cuda_bf16.h>

#include <cmath>

#include "attention/backends/cudnn/unseen.h"

namespace longhaul::attention::cudnn {
namespace {

__global__ void fill_kernel(const int64_t* ranges, __nv_bfloat16* out, int64_t out_stride,
                            int64_t columns, float* lse, int num_heads) {
  const int64_t first = ranges[2 * blockIdx.x], count = ranges[2 * blockIdx.x + 1];
  for (int64_t row = first + blockIdx.y; row < first + count; row += gridDim.y) {
    for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
      out[row * out_stride + c] = __float2bfloat16(0.f);
    }
    for (int h = threadIdx.x; h < num_heads; h += blockDim.x) lse[row * num_heads + h] = -INFINITY;
  }
}

}  // namespace

cudaError_t fill_unseen(const int64_t* ranges, int64_t count, void* out_bf16, int64_t out_stride,
                        int64_t columns, float* lse, int num_heads, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(count), 32);
  fill_kernel<<<grid, 256, 0, stream>>>(ranges, static_cast<__nv_bfloat16*>(out_bf16), out_stride,
                                        columns, lse, num_heads);
  return cudaGetLastError();
}

}  // namespace longhaul::attention::cudnn
