#pragma once
// Definition of launch<C>, included by the files that instantiate it.

#include "attention/backends/cuda/attention_sm90_kernel.cuh"
#include "attention/backends/cuda/attention_sm90_launch.h"

namespace longhaul::attention::cuda::sm90 {

template <class C>
cudaError_t launch(const Params& params, int blocks, cudaStream_t stream) {
  // More than 48 KiB of shared memory must be asked for, on each device anew.
  const cudaError_t error = cudaFuncSetAttribute(
      attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  if (error != cudaSuccess) return error;
  attention_kernel<C><<<blocks, C::kThreads, C::kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace longhaul::attention::cuda::sm90
