#pragma once
// From accumulators to memory: normalise, turn to the output type, write whole 16-byte words.

#include <cstdint>

#include "attention/backends/cuda/attention_sm90_params.h"
#include "attention/backends/cuda/attention_sm90_softmax.cuh"

namespace longhaul::attention::sm90 {

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
      __nv_bfloat16* const out = static_cast<__nv_bfloat16*>(params.out) + at + 8 * (lane % 4);
#pragma unroll
      for (int g = 0; g < kDv / 8; g += 4) {  // 32 columns: eight for each lane of the quad
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at_register = 4 * (g + i) + 2 * r;
          w[i] = ptx::pack_bf16(o[at_register] * inverse, o[at_register + 1] * inverse);
        }
        transpose_quad(w, lane);
        if (inside) *reinterpret_cast<uint4*>(out + 8 * g) = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
}

}  // namespace longhaul::attention::sm90
