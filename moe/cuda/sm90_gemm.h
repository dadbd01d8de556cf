#pragma once
// The grouped products for compute capability 9.0: TMA, clusters of two blocks, wgmma.

#include "moe/cuda/grouped_gemm.h"

namespace longhaul::moe::cuda {

constexpr int kSm90TileRows = 256;

// As the portable kernels, bf16 only; g.row has to be there for gate_up and null for down.
void sm90_gemm(const GroupedGemm& g, Product product, cudaStream_t stream);

}  // namespace longhaul::moe::cuda
