#include "attention/backends/cuda/attention_sm90_launch.cuh"

namespace longhaul::attention::cuda::sm90 {
template cudaError_t launch<ConfigD64>(const Params&, int, int, cudaStream_t);
}  // namespace longhaul::attention::cuda::sm90
