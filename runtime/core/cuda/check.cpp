#include "runtime/core/cuda/check.h"

namespace longhaul::cuda {

void check(cudaError_t error, const char* call, const char* file, int line) {
  if (error == cudaSuccess) return;
  // What is left in the thread's error state would be blamed on a later launch.
  (void)cudaGetLastError();
  const bool memory = error == cudaErrorMemoryAllocation;
  throw Error(memory ? ExitCode::resource : ExitCode::internal,
              fmt::format("CUDA: {} failed: {} ({})", call, cudaGetErrorString(error),
                          cudaGetErrorName(error)),
              file, line);
}

}  // namespace longhaul::cuda
