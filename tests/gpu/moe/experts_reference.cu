#include <cuda_bf16.h>

#include "tests/gpu/gpu_test_support.h"
#include "tests/gpu/moe/experts_reference.h"

namespace longhaul::test {
namespace {

__device__ double element(const void* data, int64_t i, bool bf16) {
  return bf16 ? static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]))
              : static_cast<double>(static_cast<const float*>(data)[i]);
}

__device__ double round_to_bf16(double x) {
  return static_cast<double>(__bfloat162float(__float2bfloat16(static_cast<float>(x))));
}

// A block per row, a warp per dot product.
__global__ void reference_kernel(ExpertsReference r, const int64_t* rows, bool rounded,
                                 double* out) {
  extern __shared__ double act[];  // [intermediate]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t row = rows[blockIdx.x];
  double* const to = out + blockIdx.x * r.hidden;
  const auto store = [&](double x) { return rounded ? round_to_bf16(x) : x; };
  const auto warp_sum = [](double x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
  };
  for (int64_t j = threadIdx.x; j < r.hidden; j += blockDim.x)
    to[j] = r.before != nullptr ? element(r.before, row * r.hidden + j, r.bf16) : 0.0;
  for (int k = 0; k < r.top_k; ++k) {
    const int64_t e = r.ids[row * r.top_k + k];
    const double weight = r.weights[row * r.top_k + k];
    __syncthreads();
    for (int64_t i = warp; i < r.intermediate; i += warps) {
      const int64_t gate_row = (e * 2 * r.intermediate + i) * r.hidden;
      const int64_t up_row = gate_row + r.intermediate * r.hidden;
      double gate = 0, up = 0;
      for (int64_t j = lane; j < r.hidden; j += 32) {
        const double x = element(r.x, row * r.hidden + j, r.bf16);
        gate += x * element(r.gate_up, gate_row + j, r.bf16);
        up += x * element(r.gate_up, up_row + j, r.bf16);
      }
      gate = store(warp_sum(gate));
      up = store(warp_sum(up));
      if (lane == 0) act[i] = store(gate / (1 + exp(-gate)) * up);
    }
    __syncthreads();
    for (int64_t j = warp; j < r.hidden; j += warps) {
      double y = 0;
      for (int64_t i = lane; i < r.intermediate; i += 32)
        y += act[i] * element(r.down, (e * r.hidden + j) * r.intermediate + i, r.bf16);
      y = store(warp_sum(y));
      if (lane == 0) to[j] += weight * y;
    }
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < r.hidden; j += blockDim.x) to[j] = store(to[j]);
}

__device__ uint64_t hash(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__global__ void normal_kernel(void* data, size_t count, bool bf16, uint64_t seed, float scale) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count;
       i += step) {
    const uint64_t bits = hash(seed * 0x100000001b3ull + i);
    const float u = static_cast<float>((bits >> 40) + 1) * 0x1p-24f;
    const float v = static_cast<float>(bits & 0xffffff) * 0x1p-24f;
    const float x = sqrtf(-2.f * logf(u)) * cospif(2.f * v) * scale;
    if (bf16) {
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(x);
    } else {
      static_cast<float*>(data)[i] = x;
    }
  }
}

__global__ void choices_kernel(int32_t* ids, float* weights, int64_t rows, int top_k,
                               int num_experts, uint64_t seed) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r >= rows) return;
  for (int k = 0; k < top_k; ++k) {
    uint64_t bits = hash(seed + static_cast<uint64_t>(r * top_k + k));
    weights[r * top_k + k] = (static_cast<float>(bits >> 40) + 1.f) * 0x1p-24f;
    auto e = static_cast<int32_t>(bits % static_cast<uint64_t>(num_experts));
    for (bool again = true; again;) {
      again = false;
      for (int j = 0; j < k; ++j) again = again || ids[r * top_k + j] == e;
      if (again) e = (e + 1) % num_experts;
    }
    ids[r * top_k + k] = e;
  }
}

}  // namespace

void reference_experts(const ExpertsReference& r, const int64_t* rows, int64_t count, bool rounded,
                       double* out) {
  if (count == 0) return;
  reference_kernel<<<static_cast<unsigned>(count), 512,
                     sizeof(double) * static_cast<size_t>(r.intermediate)>>>(r, rows, rounded, out);
  LH_CUDA(cudaGetLastError());
}

void fill_normal(void* data, size_t count, bool bf16, uint64_t seed, float scale) {
  if (count == 0) return;
  normal_kernel<<<1056, 256>>>(data, count, bf16, seed, scale);
  LH_CUDA(cudaGetLastError());
}

void fill_choices(int32_t* ids, float* weights, int64_t rows, int top_k, int num_experts,
                  uint64_t seed) {
  if (rows == 0) return;
  choices_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256>>>(ids, weights, rows, top_k,
                                                                     num_experts, seed);
  LH_CUDA(cudaGetLastError());
}

}  // namespace longhaul::test
