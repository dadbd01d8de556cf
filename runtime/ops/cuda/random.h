#pragma once
// Seeded random weights, made where they are needed.

#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

// Element i becomes mean + deviation * normal(key, i): the same bits as a random checkpoint's
// tensors (runtime/io/random_checkpoint.cpp). out: device memory of f32, bf16 or f16.
void fill_random(TensorView out, uint64_t key, float mean, float deviation, cudaStream_t stream);

}  // namespace longhaul::ops::cuda
