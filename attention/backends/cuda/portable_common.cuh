#pragma once
// What the bf16 and the float32 portable kernels share: which work a thread block has, where its
// rows are, waiting for rows to arrive, and writing results.

#include <cuda_bf16.h>

#include <cstdint>

#include "attention/backends/cuda/portable_params.h"

namespace longhaul::attention::cuda::portable {

// ---- PTX that CUDA C++ has no name for (compute capability 8.0).

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory by way of L2.
__device__ __forceinline__ void copy16(uint32_t dst, const void* src) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(dst), "l"(src)
               : "memory");
}

// The same, or zeros and nothing read.
__device__ __forceinline__ void copy16_or_zero(uint32_t dst, const void* src, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst),
               "l"(there ? src : nullptr), "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when all but the last kGroups groups of this thread's copies are there.
template <int kGroups>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {  // about 2 ulp; 2^-inf is 0, 2^0 is 1
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- Compile-time choices that differ between Ampere and Hopper: slots in shared memory, and
// thread blocks that share a multiprocessor.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kHopper = true;
#else
inline constexpr bool kHopper = false;
#endif
template <class C>
inline constexpr int kSlots = C::slots(kHopper);
template <class C>
inline constexpr int kResident = kHopper || C::kBlocks < 3 ? C::kBlocks : C::kBlocks - 1;

// ---- Work.

struct Work {
  const Tile* tile;
  int kv_row, page_begin, kv_end, diagonal;
  int head, kv_head;
  // Key blocks first_block .. last_block, walked from the last to the first; none: last < first.
  int first_block, last_block;
};

// Thread blocks start in the order of their index, so this is the order of the work: heads in
// sections, longest tiles first, the heads of a section side by side.
template <int kBlockN>
__device__ __forceinline__ Work find_work(const Params& p) {
  // Read anew by each call: what the loop does not need is found again behind it, which costs less
  // than the registers.
  uint32_t index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  const uint32_t per_section = p.num_tiles * p.heads_per_section;
  const uint32_t section = index / per_section;
  const uint32_t rest = index - section * per_section;
  const uint32_t first_head = section * p.heads_per_section;
  const uint32_t heads = min(p.heads_per_section, p.num_heads - first_head);
  Work w;
  w.tile = p.tiles + rest / heads;
  w.kv_row = w.tile->kv_row;
  w.page_begin = w.tile->page_begin;
  w.kv_end = w.tile->kv_end;
  w.diagonal = w.tile->diagonal;
  w.head = static_cast<int>(first_head + rest % heads);
  w.kv_head = w.head / static_cast<int>(p.group);
  w.first_block = w.tile->kv_begin / kBlockN;
  w.last_block = (w.kv_end + kBlockN - 1) / kBlockN - 1;
  return w;
}

// Row of k and v that holds key j; below 2^31.
__device__ __forceinline__ int key_row(const Params& p, const Work& w, int j) {
  if (w.page_begin < 0) return w.kv_row + j;
  const int page = __ldg(p.page_table + w.page_begin + (j >> p.page_shift));
  return (page << p.page_shift) + (j & ((1 << p.page_shift) - 1));
}

// Whether `count` keys from a multiple of that power of two lie in neighbouring rows.
__device__ __forceinline__ bool one_run(const Params& p, const Work& w, int count) {
  return w.page_begin < 0 || (1 << p.page_shift) >= count;
}

// Returns when every source of these neighbouring rows is ready. Every thread that reads them asks,
// for itself; `known` remembers the sources it has seen.
__device__ __forceinline__ void wait_for_rows(const Params& p, int first, int count,
                                              uint32_t& known) {
  uint32_t needed = 0;
  const int last = (first + count - 1) / kReadyWordRows;
#pragma unroll 1
  for (int word = first / kReadyWordRows; word <= last; ++word) {
    needed |= __ldg(p.row_sources + word);
  }
  for (needed &= ~known; needed != 0; needed &= needed - 1) {
    const int source = __ffs(static_cast<int>(needed)) - 1;
    while (true) {
      uint32_t flag;
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];"
                   : "=r"(flag)
                   : "l"(p.flags + source)
                   : "memory");
      if (static_cast<int32_t>(flag - p.flag_value) >= 0) break;
      __nanosleep(100);
    }
    known |= 1u << source;
  }
}

// The same for kCount keys from `begin`, a multiple of kRun, as far as there are keys.
template <int kRun, int kCount>
__device__ __forceinline__ void wait_for_keys(const Params& p, const Work& w, int begin,
                                              uint32_t& known) {
  if (p.flags == nullptr) return;
  const int end = min(begin + kCount, w.kv_end);
  const int step = one_run(p, w, kRun) ? kRun : 1 << p.page_shift;
#pragma unroll 1
  for (int j = begin; j < end; j += step) {
    wait_for_rows(p, key_row(p, w, j), min(step, end - j), known);
  }
}

// ---- Results.

// Weights of what is in (out, lse) already and of a new part with its own lse; `lse` becomes that
// of both. Two empty parts stay empty.
struct Shares {
  float old = 0.f, fresh = 1.f;
};
__device__ __forceinline__ Shares merge_shares(float old_lse, float& lse) {
  const float top = fmaxf(old_lse, lse);
  if (top == -INFINITY) return {0.f, 0.f};
  const float a = expf(old_lse - top), b = expf(lse - top);
  lse = top + logf(a + b);
  return {a / (a + b), b / (a + b)};
}

// N neighbouring columns (2 or 4) of one row, finished: at out[at].
template <int N>
__device__ __forceinline__ void store_out(const Params& p, int64_t at, const float (&x)[N],
                                          Shares shares) {
  if (p.output == Output::bf16) {
    auto* out = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + at);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) out[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return;
  }
  auto* out = reinterpret_cast<float2*>(static_cast<float*>(p.out) + at);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    float2 y{x[2 * i], x[2 * i + 1]};
    if (p.output == Output::f32_accumulate) {
      // A part without weight may hold anything that was never computed.
      const float2 old = shares.old == 0.f ? float2{0.f, 0.f} : out[i];
      y = {shares.old * old.x + shares.fresh * y.x, shares.old * old.y + shares.fresh * y.y};
    }
    out[i] = y;
  }
}

struct Partial {
  float* out;  // [block_m, head_dim_v], normalised
  float* lse;  // [block_m]
};
template <int kBlockM>
__device__ __forceinline__ Partial partial_of(const Params& p, const Tile& tile, int head,
                                              int part) {
  const int64_t index =
      int64_t{tile.first_partial} * p.num_heads + int64_t{head} * tile.parts + part;
  float* const out = p.partials + index * kBlockM * (p.head_dim_v + 1);
  return {out, out + int64_t{kBlockM} * p.head_dim_v};
}

// One row's way out, whichever way it is: straight to out and lse, or to this part's partial
// result. Every thread of the row takes part (they are lanes of one warp, and all rows of the warp
// at once).
template <int kBlockM>
struct RowWriter {
  float* partial = nullptr;  // this row's, or null
  int64_t at = 0;            // this row's first column in out
  Shares shares;
  bool inside = false;

  __device__ __forceinline__ RowWriter(const Params& p, const Work& w, int row, float lse,
                                       bool writes_lse) {
    const Tile& tile = *w.tile;
    inside = row < tile.q_count;
    if (tile.parts > 1) {
      const Partial mine = partial_of<kBlockM>(p, tile, w.head, tile.part);
      partial = mine.out + int64_t{row} * p.head_dim_v;
      if (inside && writes_lse) mine.lse[row] = lse;
      return;
    }
    const int64_t q_row = int64_t{tile.q_row} + row;
    at = q_row * p.out_stride + int64_t{w.head} * p.head_dim_v;
    float* const out_lse = p.lse + q_row * p.num_heads + w.head;
    if (p.output == Output::f32_accumulate) {
      if (inside) shares = merge_shares(*out_lse, lse);
      __syncwarp();  // all lanes of the row have read it
    }
    if (inside && writes_lse) *out_lse = lse;
  }

  template <int N>
  __device__ __forceinline__ void store(const Params& p, int column, const float (&x)[N]) const {
    if (!inside || column >= p.head_dim_v) return;
    if (partial == nullptr) return store_out(p, at + column, x, shares);
#pragma unroll
    for (int i = 0; i < N; ++i) partial[column + i] = x[i];
  }
};

// The thread block that finishes a cut tile's last part merges all of them, in ascending order, so
// the bits do not depend on which one that is. Called by all threads.
template <int kBlockM, int kThreads>
__device__ __noinline__ void merge_parts(const Params& p, const Tile& tile, int head) {
  __shared__ bool last;
  uint32_t* const counter = p.counters_end - 1 - (int64_t{tile.split} * p.num_heads + head);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1u) == static_cast<uint32_t>(tile.parts) - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < tile.q_count; row += kThreads / 32) {
    float mine = -INFINITY;  // lane i holds part i
    if (lane < tile.parts) mine = __ldcg(partial_of<kBlockM>(p, tile, head, lane).lse + row);
    float top = mine;
    for (int step = 16; step > 0; step /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    }
    const float weight = top == -INFINITY ? 0.f : expf(mine - top);
    float sum = 0.f;
    for (int part = 0; part < tile.parts; ++part) {
      sum += __shfl_sync(0xffffffffu, weight, part);
    }
    float lse = sum == 0.f ? -INFINITY : top + logf(sum);
    const float share = sum == 0.f ? 0.f : weight / sum;
    const int64_t q_row = int64_t{tile.q_row} + row;
    float* const out_lse = p.lse + q_row * p.num_heads + head;
    Shares shares;
    if (p.output == Output::f32_accumulate) shares = merge_shares(*out_lse, lse);
    __syncwarp();
    if (lane == 0) *out_lse = lse;
    for (int first = 0; first < p.head_dim_v; first += 128) {  // the whole warp: it shuffles
      const int column = first + 4 * lane;
      float x[4] = {};
      for (int part = 0; part < tile.parts; ++part) {
        const float a = __shfl_sync(0xffffffffu, share, part);
        if (column >= p.head_dim_v) continue;
        const float4 y = __ldcg(reinterpret_cast<const float4*>(
            partial_of<kBlockM>(p, tile, head, part).out + int64_t{row} * p.head_dim_v + column));
        x[0] = fmaf(a, y.x, x[0]);
        x[1] = fmaf(a, y.y, x[1]);
        x[2] = fmaf(a, y.z, x[2]);
        x[3] = fmaf(a, y.w, x[3]);
      }
      if (column < p.head_dim_v) {
        store_out(p, q_row * p.out_stride + int64_t{head} * p.head_dim_v + column, x, shares);
      }
    }
  }
  if (threadIdx.x == 0) *counter = 0;  // as the next launch expects it
}

}  // namespace longhaul::attention::cuda::portable
