#pragma once
// The GPU's ceilings, measured, for ratios in reports. They move with its power limit: measure in
// the same minute.

#include <cuda_runtime.h>

namespace longhaul::ops::cuda {

// FLOP/s of a bf16 product of 8192 x 8192 x 8192 random normal numbers (0.4 GB of scratch, about
// 20 ms of work). Synchronises the stream.
double matmul_ceiling(cudaStream_t stream);
// Bytes read plus bytes written a second of a large copy on the device (2 GB of scratch).
double copy_ceiling(cudaStream_t stream);

}  // namespace longhaul::ops::cuda
