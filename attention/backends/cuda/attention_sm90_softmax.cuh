#pragma once
// Online softmax over one block of scores in the register layout of wgmma (wgmma.cuh): each thread
// holds two rows, r = 0 and 1, of the warpgroup's 64; four neighbouring lanes share a row.

#include <cstdint>

#include "runtime/core/cuda/ptx.cuh"

namespace longhaul::attention::cuda::sm90 {

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

// Running state of two rows. Weights are exp2(scale_log2 * score - shift); sum is this thread's
// share of a row's weights. shift is -inf until the row has seen a key.
struct RowState {
  float shift[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f};
};

// The exact form moves a row's shift only when the block's maximum exceeds it by this much: a
// smaller rise keeps every weight below 2^8, harmless in float32 and bf16, and saves the rescale of
// the output (the conditional rescale of FlashAttention-4).
constexpr float kRescaleThreshold = 8.f;

// The quick form does not look for the maximum at all. It trusts the shift that earlier blocks
// left, and the sum of the weights, which is formed anyway, tells whether that was wrong: while it
// stays below this limit nothing has overflowed and no precision is lost, since bf16 and float32
// keep their relative precision up to 2^127 (outputs stay finite for values of v up to 2^70).
constexpr float kWeightLimit = 0x1p40f;

// Turns columns [kFrom, kTo) of the scores into weights in place; adds them to four partial sums,
// two for each row.
template <int kFrom, int kTo, int kCount>
__device__ __forceinline__ void exponentiate(float (&s)[kCount], const float (&shift)[2],
                                             float scale_log2, float (&part)[4]) {
#pragma unroll
  for (int i = kFrom / 2; i < kTo / 2; ++i) {
    s[i] = ptx::exp2_fast(fmaf(s[i], scale_log2, -shift[(i / 2) % 2]));
    part[i % 4] += s[i];
  }
}

// The exact form, for blocks with masked scores, the first ones of a tile, and those on which the
// quick form gave up. alpha[r] is what earlier sums and outputs of row r must be multiplied by.
// Returns whether any row of the warp moved.
template <int kCount>
__device__ __forceinline__ bool update_softmax(float (&s)[kCount], RowState& state,
                                               float scale_log2, float (&alpha)[2]) {
  float top4[4] = {s[0], s[1], s[2], s[3]};  // four chains rather than two: less latency
#pragma unroll
  for (int i = 4; i < kCount; ++i) top4[i % 4] = fmaxf(top4[i % 4], s[i]);

  float shift[2];
  bool moved = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float top = quad_max(fmaxf(top4[2 * r], top4[2 * r + 1])) * scale_log2;
    // From -inf any finite maximum is a rise; -inf to -inf is NaN, which compares false.
    const float rise = top - state.shift[r];
    const bool move = rise > kRescaleThreshold;
    alpha[r] = move ? ptx::exp2_fast(-rise) : 1.f;
    if (move) state.shift[r] = top;
    moved |= move;
    // Rows that have seen no key yet keep weight exp2(-inf) = 0.
    shift[r] = state.shift[r] == -INFINITY ? 0.f : state.shift[r];
  }
  float part[4] = {};
  exponentiate<0, 2 * kCount>(s, shift, scale_log2, part);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.sum[r] = state.sum[r] * alpha[r] + (part[2 * r] + part[2 * r + 1]);
  }
  return __any_sync(0xffffffffu, moved);
}

template <int kCount>
__device__ __forceinline__ void rescale(float (&o)[kCount], const float (&alpha)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) o[i] *= alpha[(i / 2) % 2];
}

// Weights of columns [kFrom, kTo) to bf16, in the register layout of the A operand of wgmma: four
// registers per 16 keys.
template <int kFrom, int kTo, int kCount>
__device__ __forceinline__ void pack_weights(const float (&s)[kCount], uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = kFrom / 4; i < kTo / 4; ++i) p[i] = ptx::pack_bf16(s[2 * i], s[2 * i + 1]);
}

}  // namespace longhaul::attention::cuda::sm90
