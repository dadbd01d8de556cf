#include "moe/cuda/permutation.h"

namespace longhaul::moe::cuda {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr uint32_t kTaken = 0;  // below the key of every number

// Unsigned order of the keys is the order of the numbers; NaN counts as minus infinity, and the two
// zeros are equal.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(isnan(x) ? -INFINITY : x + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float number_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// A warp per row; lane l holds experts l, l + 32, ...: kEach of them.
template <int kEach>
__global__ void __launch_bounds__(256)
    route_kernel(const float* __restrict__ logits, int64_t rows, int num_experts, int top_k,
                 bool normalize, int32_t* __restrict__ ids, float* __restrict__ weights) {
  const int lane = threadIdx.x % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (r >= rows) return;
  const float* const row = logits + r * num_experts;
  float logit[kEach];
  uint32_t key[kEach];
  uint32_t best = kTaken;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + 32 * j;
    logit[j] = e < num_experts ? row[e] : 0.f;
    key[j] = e < num_experts ? order_key(logit[j]) : kTaken;
    best = max(best, key[j]);
  }
  const float largest = number_of(__reduce_max_sync(kAllLanes, best));
  float total = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (lane + 32 * j < num_experts) total += expf(logit[j] - largest);
  total = warp_sum(total);

  int chosen = 0;  // lane k: the k-th expert
  for (int k = 0; k < top_k; ++k) {
    best = kTaken;
    uint32_t at = ~0u;
#pragma unroll
    for (int j = kEach - 1; j >= 0; --j) {  // downwards: an equal lower expert wins
      if (key[j] >= best && key[j] != kTaken) {
        best = key[j];
        at = static_cast<uint32_t>(lane + 32 * j);
      }
    }
    const uint32_t top = __reduce_max_sync(kAllLanes, best);
    const uint32_t first = __reduce_min_sync(kAllLanes, best == top ? at : ~0u);
    if (lane == k) chosen = static_cast<int>(first);
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (first == static_cast<uint32_t>(lane + 32 * j)) key[j] = kTaken;
  }
  float weight = lane < top_k ? expf(row[chosen] - largest) / total : 0.f;
  if (normalize) {
    float sum = 0;  // in slot order, as the CPU adds them
    for (int k = 0; k < top_k; ++k) sum += __shfl_sync(kAllLanes, weight, k);
    weight /= sum;
  }
  if (lane < top_k) {
    ids[r * top_k + lane] = chosen;
    weights[r * top_k + lane] = weight;
  }
}

}  // namespace

cudaError_t route_rows(const float* logits, int64_t rows, int num_experts, int top_k,
                       bool normalize, int32_t* ids, float* weights, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((rows + 7) / 8);
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, 256, 0, stream>>>(logits, rows, num_experts, top_k, normalize, ids, weights);
  };
  if (num_experts <= 32) {
    launch(route_kernel<1>);
  } else if (num_experts <= 64) {
    launch(route_kernel<2>);
  } else if (num_experts <= 128) {
    launch(route_kernel<4>);
  } else if (num_experts <= 256) {
    launch(route_kernel<8>);
  } else {
    launch(route_kernel<32>);
  }
  return cudaGetLastError();
}

}  // namespace longhaul::moe::cuda
