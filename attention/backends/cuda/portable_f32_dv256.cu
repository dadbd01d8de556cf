#include "attention/backends/cuda/portable_f32.cuh"

namespace longhaul::attention::cuda::portable {
template cudaError_t launch<F32Dv256>(const Params&, unsigned, int, cudaStream_t);
}  // namespace longhaul::attention::cuda::portable
