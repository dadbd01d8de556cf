#include "attention/backends/cuda/portable_f32.cuh"

namespace longhaul::attention::cuda::portable {
template cudaError_t launch<F32Dv64>(const Params&, unsigned, int, cudaStream_t);
template cudaError_t launch<F32Dv128>(const Params&, unsigned, int, cudaStream_t);
}  // namespace longhaul::attention::cuda::portable
