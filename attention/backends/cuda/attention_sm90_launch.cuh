#pragma once
// Definition of launch<C>, included by the files that instantiate it.

#include <array>
#include <atomic>

#include "attention/backends/cuda/attention_sm90_kernel.cuh"
#include "attention/backends/cuda/attention_sm90_launch.h"

namespace longhaul::attention::cuda::sm90 {

template <class C>
cudaError_t launch(const Params& params, int device, int blocks, cudaStream_t stream) {
  // More than 48 KiB of shared memory must be asked for, on each device once.
  static std::array<std::atomic<bool>, 64> asked;
  std::atomic<bool>& here = asked[static_cast<size_t>(device) % asked.size()];
  if (!here.load(std::memory_order_relaxed)) {
    const cudaError_t error = cudaFuncSetAttribute(
        attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
    if (error != cudaSuccess) return error;
    here.store(true, std::memory_order_relaxed);
  }
  attention_kernel<C><<<blocks, C::kThreads, C::kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace longhaul::attention::cuda::sm90
