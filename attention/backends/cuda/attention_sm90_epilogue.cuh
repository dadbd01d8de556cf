#pragma once
// From accumulators to memory: normalise, turn to the output type, write whole 16-byte words.

#include <cstdint>

#include "attention/backends/cuda/attention_sm90_params.h"
#include "attention/backends/cuda/attention_sm90_pipeline.cuh"
#include "attention/backends/cuda/attention_sm90_softmax.cuh"

namespace longhaul::attention::cuda::sm90 {

// Four neighbouring lanes each hold four words; afterwards lane j holds word j of lanes 0..3.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4], int lane) {
  // Exchange the off-diagonal 2x2 blocks, then the off-diagonal words within each block.
  const bool high = lane & 2, odd = lane & 1;
  const uint32_t a0 = __shfl_xor_sync(0xffffffffu, high ? w[0] : w[2], 2);
  const uint32_t a1 = __shfl_xor_sync(0xffffffffu, high ? w[1] : w[3], 2);
  w[0] = high ? a0 : w[0];
  w[1] = high ? a1 : w[1];
  w[2] = high ? w[2] : a0;
  w[3] = high ? w[3] : a1;
  const uint32_t b0 = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 1);
  const uint32_t b1 = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 1);
  w[0] = odd ? b0 : w[0];
  w[1] = odd ? w[1] : b0;
  w[2] = odd ? b1 : w[2];
  w[3] = odd ? w[3] : b1;
}

constexpr float kLn2 = 0.6931471805599453f;

// Row r of this thread's two, times `scale`, in bf16.
template <int kDv>
__device__ __forceinline__ void write_row_bf16(__nv_bfloat16* row, const float (&o)[kDv / 2], int r,
                                               float scale, bool inside, int lane) {
  __nv_bfloat16* const out = row + 8 * (lane % 4);
#pragma unroll
  for (int g = 0; g < kDv / 8; g += 4) {  // 32 columns: eight for each lane of the quad
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at_register = 4 * (g + i) + 2 * r;
      w[i] = ptx::pack_bf16(o[at_register] * scale, o[at_register + 1] * scale);
    }
    transpose_quad(w, lane);
    if (inside) *reinterpret_cast<uint4*>(out + 8 * g) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

// Writes the rows of one warpgroup, whose first row is row `first` of the tile.
template <int kDv>
__device__ __forceinline__ void write_rows(const Params& params, const float (&o)[kDv / 2],
                                           const RowState& rows, int q_row, int q_count, int head,
                                           int first) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first + warp * 16 + lane / 4 + 8 * r;
    const bool inside = row < q_count;
    const float sum = quad_sum(rows.sum[r]);
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    if (inside && lane % 4 == 0) {
      params.lse[static_cast<int64_t>(q_row + row) * params.num_heads + head] =
          sum > 0.f ? rows.shift[r] * kLn2 + logf(sum) : -INFINITY;
    }
    const int64_t at = static_cast<int64_t>(q_row + row) * params.out_stride + head * kDv;
    if (params.out_f32) {
      float* const out = static_cast<float*>(params.out) + at + 2 * (lane % 4);
#pragma unroll
      for (int g = 0; g < kDv / 8; ++g) {
        if (inside) {
          *reinterpret_cast<float2*>(out + 8 * g) =
              make_float2(o[4 * g + 2 * r] * inverse, o[4 * g + 2 * r + 1] * inverse);
        }
      }
    } else {
      write_row_bf16<kDv>(static_cast<__nv_bfloat16*>(params.out) + at, o, r, inverse, inside,
                          lane);
    }
  }
}

// ---- The same for the general kernel, where rows may be queries x heads of a group.

// The thread's number, read where it is written: from threadIdx the compiler would form everything
// that follows before the key loop, and there are no registers to keep it in.
__device__ __forceinline__ int thread_read_late() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// One row of one head: the final result, or where out and lse hold that of other keys, both merged.
struct RowTarget {
  bool inside;
  int64_t out_at;  // element of out
  int64_t lse_at;
};

__device__ __forceinline__ RowTarget row_target(const Params& params, const Slot& slot, int dv,
                                                int row) {
  const int heads = params.heads_per_tile;
  const int query = heads > 1 ? row / heads : row;
  const int head = slot.unit * heads + (row - query * heads);
  const int64_t q_row = static_cast<int64_t>(slot.q_row) + query;
  return {query < slot.q_count, q_row * params.out_stride + head * dv,
          q_row * params.num_heads + head};
}

// Weights of what is there already and of what comes to it, so that the sum is normalised; lse is
// replaced by the merged one. Parts without keys (-inf) weigh nothing.
struct MergeWeights {
  float old_weight;
  float new_weight;
  float lse;
};
__device__ __forceinline__ MergeWeights merge_weights(float old_lse, float new_lse) {
  const float top = fmaxf(old_lse, new_lse);
  const float base = top == -INFINITY ? 0.f : top;
  const float a = expf(old_lse - base), b = expf(new_lse - base);
  const float inverse = top == -INFINITY ? 0.f : 1.f / (a + b);
  return {a * inverse, b * inverse, top == -INFINITY ? top : top + logf(a + b)};
}

// Without branches that lanes take differently: after one the compiler would no longer know that
// the warp is together, and form the matrix descriptors of the key loop in ordinary registers.
template <class C>
__device__ __forceinline__ void write_rows_general(const Params& params,
                                                   const float (&o)[C::kDv / 2],
                                                   const RowState& rows, const Slot& slot,
                                                   int first) {
  const int thread = thread_read_late();
  const int lane = thread % 32, warp = thread / 32 % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const RowTarget target = row_target(params, slot, C::kDv, first + warp * 16 + lane / 4 + 8 * r);
    const float sum = quad_sum(rows.sum[r]);
    float inverse = sum > 0.f ? 1.f / sum : 0.f;
    float lse = sum > 0.f ? rows.shift[r] * kLn2 + logf(sum) : -INFINITY;
    float keep = 0.f;
    if (params.accumulate) {
      const float old_lse = target.inside ? params.lse[target.lse_at] : -INFINITY;
      const MergeWeights w = merge_weights(old_lse, lse);
      inverse *= w.new_weight;
      keep = w.old_weight;
      lse = w.lse;
    }
    __syncwarp();  // all four lanes of a row have read its lse
    if (target.inside && lane % 4 == 0) params.lse[target.lse_at] = lse;
    if (params.out_f32) {
      float* const out = static_cast<float*>(params.out) + target.out_at + 2 * (lane % 4);
#pragma unroll
      for (int g = 0; g < C::kDv / 8; ++g) {
        auto* const to = reinterpret_cast<float2*>(out + 8 * g);
        const float2 old = keep > 0.f ? *to : make_float2(0.f, 0.f);
        if (target.inside) {
          *to = make_float2(fmaf(keep, old.x, o[4 * g + 2 * r] * inverse),
                            fmaf(keep, old.y, o[4 * g + 2 * r + 1] * inverse));
        }
      }
    } else {
      write_row_bf16<C::kDv>(static_cast<__nv_bfloat16*>(params.out) + target.out_at, o, r, inverse,
                             target.inside, lane);
    }
  }
}

// A part of a tile's keys: outputs and sums as they are, for the merge kernel.
template <class C>
__device__ __forceinline__ void write_partial(const Params& params, const float (&o)[C::kDv / 2],
                                              const RowState& rows, const Slot& slot, int first) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int64_t tile_row =
      (int64_t{slot.partial} * params.num_units + slot.unit) * static_cast<int64_t>(C::kBlockM);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first + warp * 16 + lane / 4 + 8 * r;
    const float sum = quad_sum(rows.sum[r]);
    const bool inside = row < slot.q_count * params.heads_per_tile;
    if (inside && lane % 4 == 0)
      params.partial_state[tile_row + row] = make_float2(rows.shift[r], sum);
    float* const out = params.partial_out + (tile_row + row) * C::kDv + 2 * (lane % 4);
#pragma unroll
    for (int g = 0; g < C::kDv / 8; ++g) {
      if (inside) {
        *reinterpret_cast<float2*>(out + 8 * g) =
            make_float2(o[4 * g + 2 * r], o[4 * g + 2 * r + 1]);
      }
    }
  }
}

}  // namespace longhaul::attention::cuda::sm90
