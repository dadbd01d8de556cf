#pragma once
// CUDA calls whose result nobody may ignore.

#include <cuda_runtime.h>

#include "runtime/core/check.h"

namespace longhaul::cuda {

// Throws on anything but success: Error(resource) when the device's memory is used up,
// Error(internal) otherwise. The message names the call, its place and CUDA's own words.
void check(cudaError_t error, const char* call, const char* file, int line);

}  // namespace longhaul::cuda

#define LH_CUDA(call) ::longhaul::cuda::check((call), #call, __FILE__, __LINE__)
// After a kernel launch: errors of the launch itself, not of the kernel's run.
#define LH_CUDA_LAUNCH(name) \
  ::longhaul::cuda::check(cudaGetLastError(), "launch of " name, __FILE__, __LINE__)
