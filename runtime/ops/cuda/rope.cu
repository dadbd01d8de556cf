#include "runtime/ops/cuda/rope.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    rope_table_kernel(const int64_t* positions, const double* inverse_frequencies, double scaling,
                      float* cos_table, float* sin_table, int64_t count, int64_t half) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = i / half;
    const double angle =
        __dmul_rn(static_cast<double>(positions[row]), inverse_frequencies[i - row * half]);
    double s, c;
    sincos(angle, &s, &c);
    cos_table[i] = static_cast<float>(__dmul_rn(c, scaling));
    sin_table[i] = static_cast<float>(__dmul_rn(s, scaling));
  }
}

}  // namespace

void rope_table(ConstTensorView positions, ConstTensorView inverse_frequencies,
                double attention_scaling, TensorView cos, TensorView sin, cudaStream_t stream) {
  const int64_t half = inverse_frequencies.rows();
  LH_CHECK(positions.dtype == DType::i64 && inverse_frequencies.dtype == DType::f64 &&
               cos.dtype == DType::f32 && sin.dtype == DType::f32 &&
               cos.shape == Shape({positions.rows(), half}) && sin.shape == cos.shape,
           "{} positions {}, {} frequencies {}, cos {} {}, sin {} {}", dtype_name(positions.dtype),
           positions.shape.to_string(), dtype_name(inverse_frequencies.dtype),
           inverse_frequencies.shape.to_string(), dtype_name(cos.dtype), cos.shape.to_string(),
           dtype_name(sin.dtype), sin.shape.to_string());
  const int64_t count = cos.num_elements();
  if (count == 0) return;
  rope_table_kernel<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(
      static_cast<const int64_t*>(positions.data),
      static_cast<const double*>(inverse_frequencies.data), attention_scaling,
      static_cast<float*>(cos.data), static_cast<float*>(sin.data), count, half);
  LH_CUDA_LAUNCH("rope_table");
}

}  // namespace longhaul::ops::cuda
