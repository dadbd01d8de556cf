#include "runtime/ops/cuda/qkv.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;

// Blocks along x share a run, runs go along y.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    copy_runs_kernel(const char* from, char* to, int64_t row_bytes, const int64_t* runs,
                     int64_t num_runs) {
  for (int64_t run = blockIdx.y; run < num_runs; run += gridDim.y) {
    const auto* x = reinterpret_cast<const Unit*>(from + runs[run * 3] * row_bytes);
    auto* y = reinterpret_cast<Unit*>(to + runs[run * 3 + 1] * row_bytes);
    const int64_t count = runs[run * 3 + 2] * row_bytes / static_cast<int64_t>(sizeof(Unit));
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kUnroll;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads * kUnroll + threadIdx.x; i < count;
         i += step) {
      Unit v[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (i + u * kThreads < count) v[u] = x[i + u * kThreads];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (i + u * kThreads < count) y[i + u * kThreads] = v[u];
    }
  }
}

}  // namespace

void copy_kv_rows(const KvCopy& copy, cudaStream_t stream) {
  LH_CHECK(copy.row_bytes >= 0 && copy.num_runs >= 0, "{} runs of rows of {} bytes", copy.num_runs,
           copy.row_bytes);
  if (copy.num_runs == 0 || copy.row_bytes == 0) return;
  // How long the runs are is known to the device only: enough blocks for few long ones, few blocks
  // a run where there are many.
  constexpr int64_t kBlocks = 132 * 8;
  const dim3 grid(
      static_cast<unsigned>(std::max<int64_t>(1, (kBlocks + copy.num_runs - 1) / copy.num_runs)),
      static_cast<unsigned>(std::min<int64_t>(copy.num_runs, 65535)));
  const auto* from = static_cast<const char*>(copy.from);
  auto* to = static_cast<char*>(copy.to);
  if (aligned16(from) && aligned16(to) && copy.row_bytes % 16 == 0)
    copy_runs_kernel<uint4>
        <<<grid, kThreads, 0, stream>>>(from, to, copy.row_bytes, copy.runs, copy.num_runs);
  else
    copy_runs_kernel<uint8_t>
        <<<grid, kThreads, 0, stream>>>(from, to, copy.row_bytes, copy.runs, copy.num_runs);
  LH_CUDA_LAUNCH("copy_kv_rows");
}

}  // namespace longhaul::ops::cuda
