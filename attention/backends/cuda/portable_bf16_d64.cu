#include "attention/backends/cuda/portable_bf16.cuh"

namespace longhaul::attention::cuda::portable {
template cudaError_t launch<Bf16D32>(const Params&, unsigned, int, cudaStream_t);
template cudaError_t launch<Bf16D64>(const Params&, unsigned, int, cudaStream_t);
}  // namespace longhaul::attention::cuda::portable
