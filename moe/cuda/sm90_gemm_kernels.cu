#include "moe/cuda/sm90_kernel.cuh"

namespace longhaul::moe::cuda::sm90 {
namespace {

template <Product kProduct>
cudaError_t launch_kernel(const Params& params, int blocks, cudaStream_t stream) {
  // More than 48 KiB of shared memory must be asked for, on each device anew.
  const cudaError_t error = cudaFuncSetAttribute(
      gemm_kernel<kProduct>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  gemm_kernel<kProduct><<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch(const Params& params, Product product, int blocks, cudaStream_t stream) {
  return product == Product::gate_up ? launch_kernel<Product::gate_up>(params, blocks, stream)
                                     : launch_kernel<Product::down>(params, blocks, stream);
}

}  // namespace longhaul::moe::cuda::sm90
