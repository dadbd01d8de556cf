// Stand-ins on the host: "device" memory is host memory, streams work at once, and the kernels are
// loops. One head, one word of K and of V that count.

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <span>

#include "attention/backends/cuda/attention.h"
#include "runtime/core/check.h"
#include "runtime/ops/cuda/qkv.h"

extern "C" {
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return "host";
}
const char* cudaGetErrorName(cudaError_t) {
  return "host";
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = 0;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = std::malloc(bytes);
  std::memset(*p, 0xff, bytes);  // NaN
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  return cudaMalloc(p, bytes);
}
cudaError_t cudaFreeHost(void* p) {
  return cudaFree(p);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
}

namespace longhaul::cuda {

const Device& current_device() {
  static const Device device{0, 132, 9, 0, 0, "host"};
  return device;
}

}  // namespace longhaul::cuda

namespace longhaul::ops::cuda {

void copy_kv_rows(const KvCopy& c, cudaStream_t) {
  for (int64_t i = 0; i < c.num_runs; ++i) {
    const int64_t* run = c.runs + 3 * i;
    std::memcpy(static_cast<char*>(c.to) + run[1] * c.row_bytes,
                static_cast<const char*>(c.from) + run[0] * c.row_bytes,
                static_cast<size_t>(run[2] * c.row_bytes));
  }
}

}  // namespace longhaul::ops::cuda

namespace longhaul::attention::cuda {

std::string_view kernel_name(Kernel) {
  return "host";
}
Kernel choose_kernel(const longhaul::cuda::Device&, const Shape&) {
  return Kernel::portable;
}

// The table is the items.
Plan make_plan(Kernel, const Shape& shape, std::span<const Item> items, const PlanOptions&) {
  Plan plan;
  plan.shape = shape;
  plan.table.resize(items.size_bytes());
  if (!items.empty()) std::memcpy(plan.table.data(), items.data(), items.size_bytes());
  plan.num_tiles = static_cast<int64_t>(items.size());
  plan.workspace_bytes = 64;
  return plan;
}

// out[0] = sum of k[0] over the keys seen, out[1] = sum of v[0]; lse = their number.
void forward(const Plan& plan, const Args& args, cudaStream_t) {
  const auto* items = static_cast<const Item*>(args.table);
  for (int64_t n = 0; n < plan.num_tiles; ++n) {
    const Item& item = items[n];
    LH_CHECK(item.q_row + item.q_length <= args.q_rows &&
             item.kv_row + item.kv_length <= args.kv_rows);
    for (int64_t i = 0; i < item.q_length; ++i) {
      double k = 0, v = 0;
      int64_t seen = 0;
      for (int64_t j = 0; j < item.kv_length && j <= i + item.causal_offset; ++j, ++seen) {
        const int64_t row = item.kv_row + j;
        k += static_cast<double>(static_cast<const float*>(args.k)[row * args.k_stride]);
        v += static_cast<double>(static_cast<const float*>(args.v)[row * args.v_stride]);
      }
      float* out = static_cast<float*>(args.out) + (item.q_row + i) * args.out_stride;
      out[0] = static_cast<float>(k);
      out[1] = static_cast<float>(v);
      args.lse[item.q_row + i] = static_cast<float>(seen);
    }
  }
}

}  // namespace longhaul::attention::cuda
