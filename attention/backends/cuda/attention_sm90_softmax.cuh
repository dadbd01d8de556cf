#pragma once
// Online softmax over one block of scores in the register layout of wgmma (wgmma.cuh): each thread
// holds two rows, r = 0 and 1, of the warpgroup's 64; four neighbouring lanes share a row.

#include <cstdint>

#include "attention/backends/cuda/ptx.cuh"

namespace longhaul::attention::sm90 {

namespace ptx = ::longhaul::cuda::ptx;

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Scores of keys that a row may not see become -inf. limit[r]: the last key, counted from this
// thread's first column of the block, that row r sees.
template <int kCount>
__device__ __forceinline__ void mask_scores(float (&s)[kCount], const int (&limit)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = 8 * (i / 4) + i % 2;
    if (column > limit[(i / 2) % 2]) s[i] = -INFINITY;
  }
}

// Running state of two rows: the reference maximum of the raw scores and this thread's share of the
// sum of exp(scale * (score - reference)).
struct RowState {
  float reference[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f};
};

// The reference moves only when the block's maximum exceeds it by this much in log2: a smaller rise
// keeps every weight below 2^8, harmless in float32 and bf16, and saves the rescale of the output
// (the conditional rescale of FlashAttention-4).
constexpr float kRescaleThreshold = 8.f;

// Turns scores into weights exp2(scale_log2 * (s - reference)) in place. alpha[r] is what earlier
// sums and outputs of row r must be multiplied by. Returns whether any row of the warp moved.
template <int kCount>
__device__ __forceinline__ bool update_softmax(float (&s)[kCount], RowState& state, float scale_log2,
                                               float (&alpha)[2]) {
  float top4[4] = {s[0], s[1], s[2], s[3]};  // four chains rather than two: less latency
#pragma unroll
  for (int i = 4; i < kCount; ++i) top4[i % 4] = fmaxf(top4[i % 4], s[i]);
  float top[2] = {fmaxf(top4[0], top4[1]), fmaxf(top4[2], top4[3])};

  float shift[2];
  bool moved = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    top[r] = quad_max(top[r]);
    // From -inf any finite maximum is a rise; -inf to -inf is NaN, which compares false.
    const float rise = (top[r] - state.reference[r]) * scale_log2;
    const bool move = rise > kRescaleThreshold;
    alpha[r] = move ? ptx::exp2_fast(-rise) : 1.f;
    if (move) state.reference[r] = top[r];
    moved |= move;
    // Rows that have seen no key yet keep weight exp2(-inf) = 0.
    shift[r] = state.reference[r] == -INFINITY ? 0.f : state.reference[r] * scale_log2;
  }

  float part[2][2] = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int r = (i / 2) % 2;
    s[i] = ptx::exp2_fast(fmaf(s[i], scale_log2, -shift[r]));
    part[r][i % 2] += s[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.sum[r] = state.sum[r] * alpha[r] + (part[r][0] + part[r][1]);
  }
  return __any_sync(0xffffffffu, moved);
}

template <int kCount>
__device__ __forceinline__ void rescale(float (&o)[kCount], const float (&alpha)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) o[i] *= alpha[(i / 2) % 2];
}

// Weights to bf16, in the register layout of the A operand of wgmma: four registers per 16 keys.
template <int kCount>
__device__ __forceinline__ void pack_weights(const float (&s)[kCount], uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) p[i] = ptx::pack_bf16(s[2 * i], s[2 * i + 1]);
}

}  // namespace longhaul::attention::sm90
