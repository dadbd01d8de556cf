#pragma once
// Few parts of a tile, joined without a second kernel: whichever warp finds that the others' parts
// of its 16 rows are done adds them up, in ascending order of keys whoever comes last.

#include "attention/backends/cuda/attention_sm90_epilogue.cuh"

namespace longhaul::attention::cuda::sm90 {

// Puts this warp's part to the others'. Where it is the last, o and rows hold the sum afterwards
// and the result is true.
template <class C>
__device__ __forceinline__ bool join_parts(const Params& params, float (&o)[C::kDv / 2],
                                           RowState& rows, const Slot& slot, int group) {
  // Read here, or the compiler would keep all that follows from it in registers through the key
  // loop.
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  const int warp = __shfl_sync(0xffffffffu, group * 4 + static_cast<int>(threadIdx.x) / 32 % 4, 0);
  if (warp * kRowsPerArrival >= slot.q_count * params.heads_per_tile) return false;  // rows of none
  const int parts = slot.join & 0xff;
  // Of the first part; the others follow each `step` warps on.
  const int64_t step = int64_t{params.num_units} * (C::kBlockM / kRowsPerArrival);
  const int64_t first =
      (slot.partial - (slot.join >> 8)) * step + slot.unit * (C::kBlockM / kRowsPerArrival) + warp;
  // A lane's values lie together, 16 bytes of every lane side by side.
  constexpr int kWords = C::kDv / 8;
  const auto out_of = [&](int64_t at) {
    return reinterpret_cast<float4*>(params.partial_out) + (at * kWords * 32 + lane);
  };
  const auto state_of = [&](int64_t at) {
    return params.partial_state + (at * kRowsPerArrival + lane / 4);
  };

  const int64_t mine = first + (slot.join >> 8) * step;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    out_of(mine)[32 * i] = make_float4(o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = quad_sum(rows.sum[r]);
    if (lane % 4 == 0) state_of(mine)[8 * r] = make_float2(rows.shift[r], sum);
  }
  ptx::fence_gpu();
  __syncwarp();
  unsigned before = 0;
  if (lane == 0) before = atomicInc(params.arrivals + first, parts - 1);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before != static_cast<unsigned>(parts - 1)) return false;
  __syncwarp();
  ptx::fence_gpu();

  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int part = 0; part < kMostJoinedParts; ++part) {  // all loads at once, of few registers
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = min(part, parts - 1);
      top[r] = fmaxf(top[r], __ldcg(state_of(first + at * step) + 8 * r).x);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows.shift[r] = top[r];
    rows.sum[r] = 0.f;
    if (top[r] == -INFINITY) top[r] = 0.f;  // no part saw a key: all weights are 0
  }
#pragma unroll
  for (int i = 0; i < C::kDv / 2; ++i) o[i] = 0.f;
#pragma unroll(C::kDv <= 128 ? 2 : 1)
  for (int part = 0; part < parts; ++part) {
    const float4* const from = out_of(first + part * step);
    float weight[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float2 state = __ldcg(state_of(first + part * step) + 8 * r);
      weight[r] = ptx::exp2_fast(state.x - top[r]);
      // The four lanes' shares of a row's sum are added later.
      rows.sum[r] += lane % 4 == 0 ? weight[r] * state.y : 0.f;
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const float4 x = __ldcg(from + 32 * i);
      o[4 * i] += weight[0] * x.x;
      o[4 * i + 1] += weight[0] * x.y;
      o[4 * i + 2] += weight[1] * x.z;
      o[4 * i + 3] += weight[1] * x.w;
    }
  }
  return true;
}

}  // namespace longhaul::attention::cuda::sm90
