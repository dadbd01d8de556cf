#pragma once
// Attention forward in float32 by plain multiply-adds, for results as good as float32 gives: one
// thread block of 128 threads for 64 queries of one head. Thread (y, x) of 8 x 16 has rows y + 8 i
// of a 64 x 64 block of scores (columns x + 16 j) and of the output (columns 4 x + 64 c ...). The
// 16 threads of a row are half a warp, so weights pass through shared memory within a warp. K comes
// in pieces of 32 dims and V in pieces of 16 keys, through a ring of slots filled by cp.async.

#include "attention/backends/cuda/portable_common.cuh"

namespace longhaul::attention::cuda::portable {

template <class C>
struct F32Block {
  static constexpr int kRows = 8, kCols = 4;  // of scores, a thread

  const Params& p;
  const Work& w;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int q_stride;
  float *queries, *weights, *ring;  // shared memory
  float out[kRows][4 * C::kColumns];
  float top[kRows], sum[kRows];  // sums are this thread's share
  uint32_t known = 0;            // sources seen to be ready

  __device__ __forceinline__ F32Block(const Params& params, const Work& work, float* shared)
      : p(params),
        w(work),
        q_stride(C::q_stride(params.head_dim)),
        queries(shared),
        weights(shared + C::kBlockM * q_stride),
        ring(weights + C::kBlockM * C::kPStride) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int c = 0; c < 4 * C::kColumns; ++c) out[i][c] = 0.f;
      top[i] = -INFINITY;
      sum[i] = 0.f;
    }
  }

  __device__ __forceinline__ void copy_queries() const {
    const float* const q =
        static_cast<const float*>(p.q) + w.tile->q_row * p.q_stride + int64_t{w.head} * p.head_dim;
    const uint32_t dst = shared_address(queries);
    for (int row = threadIdx.x / 8; row < C::kBlockM; row += C::kThreads / 8) {
      for (int column = threadIdx.x % 8 * 4; column < C::padded(p.head_dim); column += 32) {
        copy16_or_zero(dst + (row * q_stride + column) * 4, q + row * p.q_stride + column,
                       row < w.tile->q_count && column < p.head_dim);
      }
    }
  }

  // A piece of kRows x kWords x 4 elements of k or v from key `key` and column `column`: zeros past
  // the last key and the last column.
  template <int kRows, int kWords, int kStride>
  __device__ __forceinline__ void copy_piece(uint32_t slot, const void* data, int64_t stride,
                                             int columns, int key, int column) const {
    constexpr int kStep = C::kThreads / kWords;
    const int row = threadIdx.x / kWords;
    column += threadIdx.x % kWords * 4;
    slot += (row * kStride + threadIdx.x % kWords * 4) * 4;
    const float* const base =
        static_cast<const float*>(data) + int64_t{w.kv_head} * columns + column;
    if (key + kRows <= w.kv_end && one_run(p, w, kRows)) {
      const float* src = base + (int64_t{key_row(p, w, key)} + row) * stride;
#pragma unroll
      for (int i = 0; i < kRows / kStep; ++i) {
        copy16_or_zero(slot + i * kStep * kStride * 4, src, column < columns);
        src += kStep * stride;
      }
    } else {  // in a loop: this is for ends and for small pages
#pragma unroll 1
      for (int j = key + row; j < key + kRows; j += kStep) {
        const bool there = j < w.kv_end && column < columns;
        copy16_or_zero(slot, there ? base + key_row(p, w, j) * stride : nullptr, there);
        slot += kStep * kStride * 4;
      }
    }
  }

  // Piece i of K holds dims 32 i ...; of V, keys begin + 16 i ...
  __device__ __forceinline__ void copy_keys(uint32_t slot, int begin, int piece) {
    if (piece == 0) wait_for_keys<C::kBlockN, C::kBlockN>(p, w, begin, known);
    copy_piece<C::kBlockN, C::kDims / 4, C::kKStride>(slot, p.k, p.k_stride, p.head_dim, begin,
                                                      piece * C::kDims);
  }

  __device__ __forceinline__ void copy_values(uint32_t slot, int begin, int piece) const {
    copy_piece<C::kKeys, C::kVStride / 4, C::kVStride>(slot, p.v, p.v_stride, p.head_dim_v,
                                                       begin + piece * C::kKeys, 0);
  }

  __device__ __forceinline__ void add_scores(float (&s)[kRows][kCols], const float* keys,
                                             int piece) const {
    const float* const a_at = queries + y * q_stride + piece * C::kDims;
    const float* const b_at = keys + x * C::kKStride;
#pragma unroll(C::kColumns > 2 || C::kBlocks > 2 ? 1 : 2)
    for (int k = 0; k < C::kDims; k += 4) {
      float4 b[kCols];
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        b[j] = *reinterpret_cast<const float4*>(b_at + j * 16 * C::kKStride + k);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(a_at + i * 8 * q_stride + k);
#pragma unroll
        for (int j = 0; j < kCols; ++j) {
          s[i][j] = fmaf(a.x, b[j].x, s[i][j]);
          s[i][j] = fmaf(a.y, b[j].y, s[i][j]);
          s[i][j] = fmaf(a.z, b[j].z, s[i][j]);
          s[i][j] = fmaf(a.w, b[j].w, s[i][j]);
        }
      }
    }
  }

  // Masks scores where asked for, turns them into weights in shared memory, and scales output and
  // sums to the new maxima.
  __device__ __forceinline__ void softmax(float (&s)[kRows][kCols], int begin, bool masked) {
    __syncwarp();  // the warp has read the weights of the block before
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = y + 8 * i;
      if (masked) {
        const int seen = min(w.diagonal + row + 1, w.kv_end) - begin;
#pragma unroll
        for (int j = 0; j < kCols; ++j) {
          if (x + 16 * j >= seen) s[i][j] = -INFINITY;
        }
      }
      float most = fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3]));
#pragma unroll
      for (int step = 8; step > 0; step /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
      }
      most = fmaxf(most, top[i]);
      // No key so far: weights 2^-inf from a maximum of 0.
      const float shift = most == -INFINITY ? 0.f : most;
      const float scale = exp2_fast((top[i] - shift) * p.scale_log2);
      top[i] = most;
      float part = 0.f;
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        // The difference first: it is small and exact where it matters.
        const float weight = exp2_fast((s[i][j] - shift) * p.scale_log2);
        part += weight;
        weights[row * C::kPStride + x + 16 * j] = weight;
      }
      sum[i] = fmaf(sum[i], scale, part);
#pragma unroll
      for (int c = 0; c < 4 * C::kColumns; ++c) out[i][c] *= scale;
    }
    __syncwarp();
  }

  __device__ __forceinline__ void add_values(const float* values, int piece) {
    const float* const a_at = weights + y * C::kPStride + piece * C::kKeys;
    const float* const b_at = values + 4 * x;
#pragma unroll 1
    for (int k = 0; k < C::kKeys; k += 4) {
      float4 a[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        a[i] = *reinterpret_cast<const float4*>(a_at + i * 8 * C::kPStride + k);
      }
#pragma unroll
      for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
        for (int c = 0; c < C::kColumns; ++c) {
          const float4 b = *reinterpret_cast<const float4*>(b_at + (k + kk) * C::kVStride + 64 * c);
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            const float f = kk == 0 ? a[i].x : kk == 1 ? a[i].y : kk == 2 ? a[i].z : a[i].w;
            out[i][4 * c] = fmaf(f, b.x, out[i][4 * c]);
            out[i][4 * c + 1] = fmaf(f, b.y, out[i][4 * c + 1]);
            out[i][4 * c + 2] = fmaf(f, b.z, out[i][4 * c + 2]);
            out[i][4 * c + 3] = fmaf(f, b.w, out[i][4 * c + 3]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void write(const Work& work) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float total = sum[i];
#pragma unroll
      for (int step = 8; step > 0; step /= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, step);
      }
      const bool none = top[i] == -INFINITY;
      const float inverse = none ? 0.f : 1.f / total;
      const float lse = none ? -INFINITY : fmaf(top[i], p.scale, logf(total));
      const RowWriter<C::kBlockM> row(p, work, y + 8 * i, lse, x == 0);
#pragma unroll
      for (int c = 0; c < C::kColumns; ++c) {
        const float result[4] = {out[i][4 * c] * inverse, out[i][4 * c + 1] * inverse,
                                 out[i][4 * c + 2] * inverse, out[i][4 * c + 3] * inverse};
        row.store(p, 4 * x + 64 * c, result);
      }
    }
  }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, kResident<C>)
    attention_f32_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) float shared_floats[];
  const Work w = find_work<C::kBlockN>(p);
  F32Block<C> block(p, w, shared_floats);
  const int key_pieces = C::padded(p.head_dim) / C::kDims;
  constexpr int kValuePieces = C::kBlockN / C::kKeys;
  constexpr int kSlotFloats = C::kSlotBytes / 4;

  block.copy_queries();
  int fill_block = w.last_block, fill_piece = 0, fill_slot = 0, slot = 0;
  const auto next_slot = [&](int s) { return s + 1 == kSlots<C> ? 0 : s + 1; };
  const auto fill = [&] {
    if (fill_block >= w.first_block) {
      const uint32_t at = shared_address(block.ring + fill_slot * kSlotFloats);
      if (fill_piece < key_pieces) {
        block.copy_keys(at, fill_block * C::kBlockN, fill_piece);
      } else {
        block.copy_values(at, fill_block * C::kBlockN, fill_piece - key_pieces);
      }
      fill_slot = next_slot(fill_slot);
      if (++fill_piece == key_pieces + kValuePieces) {
        fill_piece = 0;
        --fill_block;
      }
    }
    copies_commit();
  };
  // The piece that comes next is in shared memory, and all warps are done with the one before,
  // whose slot is filled anew.
  const auto advance = [&] {
    copies_wait<kSlots<C> - 2>();
    __syncthreads();
    fill();
    const float* const at = block.ring + slot * kSlotFloats;
    slot = next_slot(slot);
    return at;
  };
  for (int i = 1; i < kSlots<C>; ++i) fill();

  for (int n = w.last_block; n >= w.first_block; --n) {
    const int begin = n * C::kBlockN;
    float s[F32Block<C>::kRows][F32Block<C>::kCols] = {};
#pragma unroll 1
    for (int piece = 0; piece < key_pieces; ++piece) block.add_scores(s, advance(), piece);
    block.softmax(s, begin, begin + C::kBlockN > w.kv_end || begin + C::kBlockN - 1 > w.diagonal);
#pragma unroll 1
    for (int piece = 0; piece < kValuePieces; ++piece) block.add_values(advance(), piece);
  }
  copies_wait<0>();
  const Work again = find_work<C::kBlockN>(p);
  block.write(again);
  if (again.tile->parts > 1) merge_parts<C::kBlockM, C::kThreads>(p, *again.tile, again.head);
}

template <class C>
cudaError_t launch(const Params& params, unsigned blocks, int shared_bytes, cudaStream_t stream) {
  // More than 48 KiB of shared memory must be asked for, on each device anew.
  cudaError_t error = cudaFuncSetAttribute(
      attention_f32_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  attention_f32_kernel<C><<<blocks, C::kThreads, shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace longhaul::attention::cuda::portable
