#pragma once
// From accumulators to memory: gate, round, write whole 16-byte words.

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/grouped_gemm.h"
#include "runtime/core/cuda/ptx.cuh"

namespace longhaul::moe::cuda::sm90 {

struct Output {
  __nv_bfloat16* data;
  int32_t columns;
  int32_t column;  // first of this block
};

// Four neighbouring lanes each hold four words; afterwards lane j holds word j of lanes 0..3.
__device__ __forceinline__ void transpose_in_quad(uint32_t (&w)[4], int lane) {
  const bool upper = (lane & 2) != 0, odd = (lane & 1) != 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // the 2 x 2 blocks off the diagonal
    const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? w[i] : w[i + 2], 2);
    w[i] = upper ? other : w[i];
    w[i + 2] = upper ? w[i + 2] : other;
  }
#pragma unroll
  for (int i = 0; i < 4; i += 2) {  // within each block
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w[i] : w[i + 1], 1);
    w[i] = odd ? other : w[i];
    w[i + 1] = odd ? w[i + 1] : other;
  }
}

// silu(gate) * up; the exponential and the quotient are good to a few float32 ulp.
__device__ __forceinline__ float gated(float gate, float up) {
  constexpr float kLog2E = 1.4426950408889634f;
  return __fdividef(gate, 1.f + ::longhaul::cuda::ptx::exp2_fast(-kLog2E * gate)) * up;
}

// The warpgroup's 64 rows of one accumulator, of which the first `rows` are real.
template <Product kProduct>
__device__ __forceinline__ void write_rows(const Output& out, const float (&d)[64], int place,
                                           int rows) {
  constexpr int kGroups = kProduct == Product::gate_up ? 8 : 16;  // of eight columns
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = 16 * warp + lane / 4 + 8 * half;
    __nv_bfloat16* const to = out.data + static_cast<int64_t>(place + row) * out.columns;
#pragma unroll
    for (int first = 0; first < kGroups; first += 4) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (first + i) + 2 * half;
        if (kProduct == Product::gate_up) {
          w[i] = ::longhaul::cuda::ptx::pack_bf16(gated(d[at], d[at + 32]),
                                                  gated(d[at + 1], d[at + 33]));
        } else {
          w[i] = ::longhaul::cuda::ptx::pack_bf16(d[at], d[at + 1]);
        }
      }
      transpose_in_quad(w, lane);
      const int column = out.column + 8 * (first + lane % 4);
      if (row < rows && column < out.columns)
        *reinterpret_cast<uint4*>(to + column) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

}  // namespace longhaul::moe::cuda::sm90
