#pragma once
// From accumulators to memory: gate, round, write.

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/sm90_params.h"
#include "runtime/core/cuda/ptx.cuh"
#include "runtime/core/cuda/tma_store.cuh"

namespace longhaul::moe::cuda::sm90 {

namespace ptx = ::longhaul::cuda::ptx;

struct Output {
  __nv_bfloat16* data;
  int32_t columns;
  int32_t column;  // first of the tile
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

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// silu(gate) * up of two columns, good to a few float32 ulp. One reciprocal serves both, since
// these share a slow unit with the exponentials: 1 / a = b / (a b). Below -41 the sigmoid is held
// at 2^-60, for a b not to overflow.
__device__ __forceinline__ uint32_t gated_pair(float gate0, float up0, float gate1, float up1) {
  constexpr float kLog2E = 1.4426950408889634f;
  const float a = 1.f + ptx::exp2_fast(fminf(-kLog2E * gate0, 60.f));
  const float b = 1.f + ptx::exp2_fast(fminf(-kLog2E * gate1, 60.f));
  const float inverse = reciprocal(a * b);
  return ptx::pack_bf16(gate0 * up0 * (b * inverse), gate1 * up1 * (a * inverse));
}

// Two columns, rounded: word `half` of group `g` of eight columns.
template <Product kProduct>
__device__ __forceinline__ uint32_t rounded_pair(const float (&d)[kWeightRows / 2], int g,
                                                 int half) {
  const int at = 4 * g + 2 * half;
  if (kProduct == Product::down) return ptx::pack_bf16(d[at], d[at + 1]);
  constexpr int kUp = kWeightRows / 4;
  return gated_pair(d[at], d[at + kUp], d[at + 1], d[at + kUp + 1]);
}

// The warpgroup's 64 rows of one accumulator, all of them real, through its two boxes of shared
// memory: the copy engine writes while the next tile is multiplied.
template <Product kProduct>
__device__ __forceinline__ void store_rows(const Params& params, const float (&d)[kWeightRows / 2],
                                           uint32_t boxes, int group, int place, int column) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row = thread / 32 * 16 + lane % 16;
  const uint32_t barrier = 1 + static_cast<uint32_t>(group);
#pragma unroll
  for (int c = 0; c < kColumns<kProduct> / 64; ++c) {
    const uint32_t box = boxes + c % 2 * kBoxBytes;
    if (thread == 0) ptx::tma_store_wait_read<1>();  // the box two before was this one
    ptx::barrier_sync(barrier, 128);
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // 16 columns
      const int g = 8 * c + 2 * j;
      const uint32_t words[4] = {rounded_pair<kProduct>(d, g, 0), rounded_pair<kProduct>(d, g, 1),
                                 rounded_pair<kProduct>(d, g + 1, 0),
                                 rounded_pair<kProduct>(d, g + 1, 1)};
      ptx::stmatrix_x4(box + row * 128 + (((2 * j + lane / 16) ^ (row % 8)) * 16), words);
    }
    ptx::fence_async_proxy();
    ptx::barrier_sync(barrier, 128);
    if (thread == 0) {
      ptx::tma_store(&params.out_map, box, column + 64 * c, place, 0);
      ptx::tma_store_commit();
    }
  }
}

// The same where only the first `rows` are real: whole 16-byte words.
template <Product kProduct>
__device__ __forceinline__ void write_rows(const Output& out, const float (&d)[128], int place,
                                           int rows) {
  constexpr int kGroups = kProduct == Product::gate_up ? 16 : 32;  // of eight columns
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
        w[i] = rounded_pair<kProduct>(d, first + i, half);
      }
      transpose_in_quad(w, lane);
      const int column = out.column + 8 * (first + lane % 4);
      if (row < rows && column < out.columns)
        *reinterpret_cast<uint4*>(to + column) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

}  // namespace longhaul::moe::cuda::sm90
