#pragma once
// How the bf16 kernel brings queries, keys and values to shared memory.

#include "attention/backends/cuda/portable_common.cuh"

namespace longhaul::attention::cuda::portable {

// How the threads of a block share out the copy of kRows rows of D columns to rows kStride bytes
// apart: 8 (4) lanes to a row.
template <int D, int kRows, int kThreads, int kStride>
struct RowCopy {
  static constexpr int kLanes = D >= 64 ? 8 : 4;
  static constexpr int kStep = kThreads / kLanes;               // rows at a time
  static constexpr int kWords = (D / 8 + kLanes - 1) / kLanes;  // of 16 bytes, for a lane
  static_assert(kRows % kStep == 0);

  static __device__ __forceinline__ int lane() { return threadIdx.x % kLanes; }
  static __device__ __forceinline__ int first_row() { return threadIdx.x / kLanes; }
  static __device__ __forceinline__ uint32_t offset() {
    return first_row() * kStride + lane() * 16;
  }
  static __device__ __forceinline__ bool exists(int word) {
    return D / 8 % kLanes == 0 || lane() + word * kLanes < D / 8;
  }

  // All rows and all D columns; src is this thread's first word, rows are `stride` bytes apart.
  static __device__ __forceinline__ void whole(uint32_t dst, const char* src, int stride) {
#pragma unroll
    for (int r = 0; r < kRows / kStep; ++r) {
#pragma unroll
      for (int c = 0; c < kWords; ++c) {
        if (!exists(c)) continue;
        copy16(dst + r * kStep * kStride + c * kLanes * 16, src + c * kLanes * 16);
      }
      src += kStep * stride;
    }
  }

  // row_at(row) gives the address of a row, or null for one to be cleared, as columns past
  // `columns` are. In a loop: this is for ends, odd dims and small pages.
  template <class RowAt>
  static __device__ __forceinline__ void some(uint32_t dst, int columns, RowAt row_at) {
#pragma unroll 1
    for (int row = first_row(); row < kRows; row += kStep) {
      const __nv_bfloat16* const src = row_at(row);
#pragma unroll
      for (int c = 0; c < kWords; ++c) {
        if (!exists(c)) continue;
        const int column = (lane() + c * kLanes) * 8;
        copy16_or_zero(dst + c * kLanes * 16, src + column, src != nullptr && column < columns);
      }
      dst += kStep * kStride;
    }
  }
};

// What a thread copies of queries, keys and values.
template <class C>
struct Bf16Copier {
  static constexpr int kRun = 64;  // keys of one page, where pages are not smaller
  static constexpr int kRuns = C::kBlockN / kRun;
  using CopyQ = RowCopy<C::kD, C::kBlockM, C::kThreads, C::kQStride>;
  using CopyK = RowCopy<C::kD, kRun, C::kThreads, C::kQStride>;
  using CopyV = RowCopy<C::kDv, kRun, C::kThreads, C::kVStride>;

  const Params& p;
  const Work& w;
  uint32_t queries, ring;  // shared memory
  // Where in a row of k and v this thread begins to read, and the pages of the key block that is
  // copied next: the copies of most blocks are a few instructions, for nothing else is issued until
  // they are.
  uint32_t k_offset, v_offset;  // bytes
  int page[kRuns] = {};
  uint32_t known = 0;  // sources seen to be ready

  __device__ __forceinline__ Bf16Copier(const Params& params, const Work& work, uint32_t shared)
      : p(params), w(work), queries(shared), ring(shared + C::kBlockM * C::kQStride) {
    k_offset = 2 * (CopyK::first_row() * static_cast<uint32_t>(p.k_stride) +
                    w.kv_head * p.head_dim + CopyK::lane() * 8);
    v_offset = 2 * (CopyV::first_row() * static_cast<uint32_t>(p.v_stride) +
                    w.kv_head * p.head_dim_v + CopyV::lane() * 8);
  }

  __device__ __forceinline__ void copy_queries() const {
    const auto* const q = static_cast<const __nv_bfloat16*>(p.q) + w.tile->q_row * p.q_stride +
                          int64_t{w.head} * p.head_dim;
    CopyQ::some(queries + CopyQ::offset(), p.head_dim,
                [&](int row) { return row < w.tile->q_count ? q + row * p.q_stride : nullptr; });
  }

  // Any block of keys (values), row by row.
  template <class Copy>
  __device__ __forceinline__ void copy_some(uint32_t slot, const void* data, int64_t stride,
                                            int columns, int begin) const {
    const auto* const base = static_cast<const __nv_bfloat16*>(data) + int64_t{w.kv_head} * columns;
    Copy::some(slot + Copy::offset(), columns, [&](int row) {
      return begin + row < w.kv_end ? base + key_row(p, w, begin + row) * stride : nullptr;
    });
  }

  // Whether a block before the last is whole rows that neighbour each other.
  __device__ __forceinline__ bool simple() const {
    return p.head_dim == C::kD && p.head_dim_v == C::kDv && one_run(p, w, kRun);
  }
  __device__ __forceinline__ void find_pages(int block) {
    if (w.page_begin < 0 || !simple()) return;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      page[i] =
          __ldg(p.page_table + w.page_begin + (block * C::kBlockN + i * kRun >> p.page_shift));
    }
  }
  __device__ __forceinline__ int simple_row(int begin, int run) const {
    begin += run * kRun;
    return w.page_begin < 0 ? w.kv_row + begin
                            : (page[run] << p.page_shift) + (begin & ((1 << p.page_shift) - 1));
  }

  template <class Copy>
  __device__ __forceinline__ void copy_whole(uint32_t slot, const void* data, int64_t stride,
                                             uint32_t offset, int row) const {
    const int bytes = 2 * static_cast<int>(stride);
    Copy::whole(slot + Copy::offset(),
                static_cast<const char*>(data) + (int64_t{row} * bytes + offset), bytes);
  }

  // Keys of a block; its values come next, and then the keys of the block before it.
  __device__ __forceinline__ void copy_keys(int block, uint32_t slot) {
    if (block < w.first_block) return;
    const int begin = block * C::kBlockN;
    const bool whole = simple() && block < w.last_block;
    if (!whole) wait_for_keys<kRun, C::kBlockN>(p, w, begin, known);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const uint32_t at = slot + i * kRun * C::kQStride;
      if (whole) {
        const int row = simple_row(begin, i);
        if (p.flags != nullptr) wait_for_rows(p, row, kRun, known);
        copy_whole<CopyK>(at, p.k, p.k_stride, k_offset, row);
      } else {
        copy_some<CopyK>(at, p.k, p.k_stride, p.head_dim, begin + i * kRun);
      }
    }
  }
  __device__ __forceinline__ void copy_values(int block, uint32_t slot) {
    if (block < w.first_block) return;
    const int begin = block * C::kBlockN;
    const bool whole = simple() && block < w.last_block;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const uint32_t at = slot + i * kRun * C::kVStride;
      if (whole) {
        copy_whole<CopyV>(at, p.v, p.v_stride, v_offset, simple_row(begin, i));
      } else {
        copy_some<CopyV>(at, p.v, p.v_stride, p.head_dim_v, begin + i * kRun);
      }
    }
    if (block > w.first_block) find_pages(block - 1);
  }
};

}  // namespace longhaul::attention::cuda::portable
