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

template <Product kProduct>
cudaError_t count(int* clusters) {
  const cudaError_t error = cudaFuncSetAttribute(
      gemm_kernel<kProduct>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kCluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = kCluster;
  size.val.clusterDim.y = size.val.clusterDim.z = 1;
  config.attrs = &size;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(clusters, gemm_kernel<kProduct>, &config);
}

}  // namespace

cudaError_t count_clusters(Product product, int* clusters) {
  return product == Product::gate_up ? count<Product::gate_up>(clusters)
                                     : count<Product::down>(clusters);
}

cudaError_t launch(const Params& params, Product product, int blocks, cudaStream_t stream) {
  return product == Product::gate_up ? launch_kernel<Product::gate_up>(params, blocks, stream)
                                     : launch_kernel<Product::down>(params, blocks, stream);
}

}  // namespace longhaul::moe::cuda::sm90
