#pragma once
// The angles of rotary position embedding, made on the GPU as runtime/ops/rope.h makes them.

#include <cuda_runtime.h>

#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

// cos and sin [rows, D/2] f32 of positions[r] * inverse_frequencies[i], times attention_scaling.
// positions [rows] i64 and inverse_frequencies [D/2] f64 lie in device memory. Angles, sines and
// their scaling are float64 and rounded once, so that any position keeps float32's full accuracy.
void rope_table(ConstTensorView positions, ConstTensorView inverse_frequencies,
                double attention_scaling, TensorView cos, TensorView sin, cudaStream_t stream);

}  // namespace longhaul::ops::cuda
