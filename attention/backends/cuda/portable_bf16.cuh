#pragma once
// Attention forward in bf16 by mma.sync m16n8k16: one thread block of four warps for each tile of
// queries and head. A warp keeps 16 * kMTiles rows: scores, weights and output stay in its
// registers; two 16-row tiles share every fragment of K and V, without which shared memory would be
// the limit. Blocks of 64 keys go through a ring of two or three slots, K and V in turn, filled by
// cp.async.

#include "attention/backends/cuda/portable_bf16_copy.cuh"

namespace longhaul::attention::cuda::portable {

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// d += a b, 16 x 8 x 16. Lane l holds rows l / 4 (d[0], d[1]) and l / 4 + 8 (d[2], d[3]) of columns
// 2 (l % 4) and the next.
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

template <class C>
struct Bf16Block : Bf16Copier<C> {
  using Copier = Bf16Copier<C>;
  using Copier::p, Copier::queries, Copier::w;
  float out[C::kMTiles][C::kDv / 8][4];
  float top[C::kMTiles][2], sum[C::kMTiles][2];  // of rows; sums are this lane's share

  __device__ __forceinline__ Bf16Block(const Params& params, const Work& work, uint32_t shared)
      : Copier(params, work, shared) {
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int n = 0; n < C::kDv / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][n][i] = 0.f;
      }
      top[m][0] = top[m][1] = -INFINITY;
      sum[m][0] = sum[m][1] = 0.f;
    }
  }

  using Scores = float[C::kMTiles][C::kBlockN / 8][4];

  __device__ __forceinline__ void scores_of(Scores& s, uint32_t keys, int warp, int lane) const {
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int n = 0; n < C::kBlockN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] = 0.f;
      }
    }
    const uint32_t a_at =
        queries + (warp * 16 * C::kMTiles + lane % 16) * C::kQStride + lane / 16 * 16;
    const uint32_t b_at = keys + (lane % 8 + lane / 16 * 8) * C::kQStride + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < C::kD / 16; ++k) {
      uint32_t a[C::kMTiles][4];
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
        load_matrices(a[m], a_at + m * 16 * C::kQStride + k * 32);
      }
#pragma unroll
      for (int n = 0; n < C::kBlockN / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, b_at + n * 16 * C::kQStride + k * 32);
#pragma unroll
        for (int m = 0; m < C::kMTiles; ++m) {
          multiply(s[m][2 * n], a[m], b[0], b[1]);
          multiply(s[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Keys that a query does not see.
  __device__ __forceinline__ void mask(Scores& s, int begin, int first_row, int lane) const {
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + m * 16 + half * 8 + lane / 4;
        // Columns of this lane are visible up to here.
        const int seen = min(w.diagonal + row + 1, w.kv_end) - begin - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < C::kBlockN / 8; ++n) {
          if (n * 8 >= seen) s[m][n][2 * half] = -INFINITY;
          if (n * 8 + 1 >= seen) s[m][n][2 * half + 1] = -INFINITY;
        }
      }
    }
  }

  // Scores become weights; output and sums are scaled to the new maxima.
  __device__ __forceinline__ void softmax(Scores& s) {
    float scale[C::kMTiles][2];
    bool changed = false;
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = fmaxf(s[m][0][2 * half], s[m][0][2 * half + 1]);
#pragma unroll
        for (int n = 1; n < C::kBlockN / 8; ++n) {
          most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        most = fmaxf(most, top[m][half]);
        // No key so far: weights 2^-inf from a maximum of 0.
        const float shift = most == -INFINITY ? 0.f : most * p.scale_log2;
        scale[m][half] = exp2_fast(fmaf(top[m][half], p.scale_log2, -shift));
        changed |= scale[m][half] != 1.f;
        top[m][half] = most;
        float part = 0.f;
#pragma unroll
        for (int n = 0; n < C::kBlockN / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[m][n][i] = exp2_fast(fmaf(s[m][n][i], p.scale_log2, -shift));
            part += s[m][n][i];
          }
        }
        sum[m][half] = fmaf(sum[m][half], scale[m][half], part);
      }
    }
    // Times 1 changes no bit, so leaving it out does not make a row depend on its neighbours.
    if (!__any_sync(0xffffffffu, changed)) return;
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int n = 0; n < C::kDv / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][n][i] *= scale[m][i / 2];
      }
    }
  }

  __device__ __forceinline__ void add_values(
      const uint32_t (&weights)[C::kMTiles][C::kBlockN / 16][4], uint32_t values, int lane) {
    const uint32_t b_at = values + lane % 16 * C::kVStride + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < C::kBlockN / 16; ++k) {
#pragma unroll
      for (int n = 0; n < C::kDv / 16; ++n) {
        uint32_t b[4];
        load_matrices_transposed(b, b_at + k * 16 * C::kVStride + n * 32);
#pragma unroll
        for (int m = 0; m < C::kMTiles; ++m) {
          multiply(out[m][2 * n], weights[m][k], b[0], b[1]);
          multiply(out[m][2 * n + 1], weights[m][k], b[2], b[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void write(const Work& work, int first_row, int lane) {
#pragma unroll
    for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = sum[m][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const bool none = top[m][half] == -INFINITY;
        const float inverse = none ? 0.f : 1.f / total;
        const float lse = none ? -INFINITY : fmaf(top[m][half], p.scale, logf(total));
        const RowWriter<C::kBlockM> row(p, work, first_row + m * 16 + half * 8 + lane / 4, lse,
                                        lane % 4 == 0);
#pragma unroll
        for (int n = 0; n < C::kDv / 8; ++n) {
          const float x[2] = {out[m][n][2 * half] * inverse, out[m][n][2 * half + 1] * inverse};
          row.store(p, n * 8 + lane % 4 * 2, x);
        }
      }
    }
  }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, kResident<C>)
    attention_bf16_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) char shared[];
  const Work w = find_work<C::kBlockN>(p);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = warp * 16 * C::kMTiles;
  // The last key that any row of this warp sees.
  const int warp_sees = w.diagonal + first_row + 16 * C::kMTiles - 1;
  Bf16Block<C> block(p, w, shared_address(shared));

  block.copy_queries();
  // Steps are K of the last block, its V, K of the block before and so on, through kSlots<C> slots.
  block.copy_keys(w.last_block, block.ring);
  copies_commit();
  if constexpr (kSlots<C> == 3) {
    block.copy_values(w.last_block, block.ring + C::kSlotBytes);
    copies_commit();
  }
  uint32_t slot = block.ring;  // of the step that comes next
  constexpr uint32_t kRing = kSlots<C> * C::kSlotBytes;
  // Returns the address of a step's data once it is there and all warps are done with the step
  // before.
  const auto await = [&] {
    copies_wait<kSlots<C> - 2>();
    __syncthreads();
    return slot;
  };
  // The slot of the step before, to be filled anew.
  const auto vacant = [&] { return (slot == block.ring ? slot + kRing : slot) - C::kSlotBytes; };
  const auto next = [&] {
    copies_commit();
    slot += C::kSlotBytes;
    if (slot == block.ring + kRing) slot = block.ring;
  };

#pragma unroll 1
  for (int n = w.last_block; n >= w.first_block; --n) {
    const int begin = n * C::kBlockN;
    uint32_t weights[C::kMTiles][C::kBlockN / 16][4];
    const uint32_t keys = await();
    if constexpr (kSlots<C> == 3) {
      block.copy_keys(n - 1, vacant());
    } else {
      block.copy_values(n, vacant());
    }
    next();
    const bool sees = begin <= warp_sees;  // else the whole block is hidden from this warp
    if (sees) {
      typename Bf16Block<C>::Scores s;
      block.scores_of(s, keys, warp, lane);
      if (begin + C::kBlockN > w.kv_end || begin + C::kBlockN - 1 > w.diagonal + first_row) {
        block.mask(s, begin, first_row, lane);
      }
      block.softmax(s);
#pragma unroll
      for (int m = 0; m < C::kMTiles; ++m) {
#pragma unroll
        for (int k = 0; k < C::kBlockN / 16; ++k) {
          weights[m][k][0] = pack_bf16(s[m][2 * k][0], s[m][2 * k][1]);
          weights[m][k][1] = pack_bf16(s[m][2 * k][2], s[m][2 * k][3]);
          weights[m][k][2] = pack_bf16(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
          weights[m][k][3] = pack_bf16(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
        }
      }
    }
    const uint32_t values = await();
    if constexpr (kSlots<C> == 3) {
      block.copy_values(n - 1, vacant());
    } else {
      block.copy_keys(n - 1, vacant());
    }
    next();
    if (sees) block.add_values(weights, values, lane);
  }
  copies_wait<0>();
  const Work again = find_work<C::kBlockN>(p);
  block.write(again, first_row, lane);
  if (again.tile->parts > 1) merge_parts<C::kBlockM, C::kThreads>(p, *again.tile, again.head);
}

template <class C>
cudaError_t launch(const Params& params, unsigned blocks, int shared_bytes, cudaStream_t stream) {
  // More than 48 KiB of shared memory must be asked for, on each device anew.
  cudaError_t error = cudaFuncSetAttribute(
      attention_bf16_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  attention_bf16_kernel<C><<<blocks, C::kThreads, shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace longhaul::attention::cuda::portable
