#pragma once
// Rows that see no key, which cuDNN is not asked about: out 0, lse -inf.

#include <cuda_runtime.h>

#include <cstdint>

namespace longhaul::attention::cudnn {

// `ranges` on the device: first row and number of rows of each.
cudaError_t fill_unseen(const int64_t* ranges, int64_t count, void* out_bf16, int64_t out_stride,
                        int64_t columns, float* lse, int num_heads, cudaStream_t stream);

}  // namespace longhaul::attention::cudnn
