#pragma once
// The producer of the general kernel: a whole warp, each lane with its box of a key block, since
// the rows of a block may lie in several pages; and it waits for rows that are still under way.

#include "attention/backends/cuda/attention_sm90_pipeline.cuh"

namespace longhaul::attention::cuda::sm90 {

// Row of k and v that holds key `key` of a tile.
__device__ __forceinline__ int key_row(const Params& params, int page_begin, int kv_row, int key) {
  const int at = kv_row + key;
  if (page_begin < 0) return at;
  const int page = __ldg(params.page_table + (int64_t{page_begin} + (at >> params.page_shift)));
  return (page << params.page_shift) + (at & ((1 << params.page_shift) - 1));
}

constexpr int kNowhere = 1 << 30;  // a row past the end of any tensor: copies bring zeros

// Shared-memory stage and parity of the n-th use of a ring.
template <int kStages>
__device__ __forceinline__ Ring<kStages> ring_at(uint32_t n) {
  return {n % kStages, n / kStages & 1};
}

// This lane's box of one key block: the row of k and v where it begins.
template <class C>
__device__ __forceinline__ int box_row(const Params& params, const Slot& slot, int block) {
  const int inside = static_cast<int>(threadIdx.x % 32) * params.box_rows;
  const int key = block * C::kBlockN + inside;
  if (inside >= C::kBlockN || key >= slot.kv_end) return kNowhere;
  return key_row(params, slot.page_begin, slot.kv_row, key);
}

// Waits until every source of the block's rows is ready. `seen`: sources known to be.
template <class C>
__device__ __forceinline__ void wait_for_sources(const Params& params, const Slot& slot, int block,
                                                 int row, uint32_t& seen) {
  constexpr int kReadyRows = 64;
  const int lane = threadIdx.x % 32;
  uint32_t need = 0;
  if (row != kNowhere) {
    const int keys = slot.kv_end - (block * C::kBlockN + lane * params.box_rows);
    const int last = (row + min(params.box_rows, keys) - 1) / kReadyRows;
    for (int word = row / kReadyRows; word <= last; ++word) {
      need |= __ldg(params.row_sources + word);
    }
  }
  need = __reduce_or_sync(0xffffffffu, need) & ~seen;
  if (need == 0) return;
  if (need >> lane & 1) {
    while (static_cast<int32_t>(ptx::load_acquire_system(params.flags + lane) - params.flag_value) <
           0) {
      __nanosleep(100);
    }
  }
  __syncwarp();
  ptx::fence_async_proxy_all();
  seen |= need;
}

// The boxes of one block, [kSlabs x 64] columns wide, to the n-th stage of a ring whose barriers
// are full(stage) and, 8 bytes on, empty.
template <class C, int kSlabs>
__device__ __forceinline__ void load_block(const Params& params, const CUtensorMap* map,
                                           uint32_t tiles, uint32_t barriers, uint32_t n,
                                           int kv_head, int row) {
  const int lane = threadIdx.x % 32;
  const Ring<C::kStages> ring = ring_at<C::kStages>(n);
  const uint32_t full = barriers + 16 * ring.stage;
  ptx::mbarrier_wait(full + 8, ring.parity ^ 1);
  if (lane == 0) ptx::mbarrier_arrive_expect(full, kSlabs * C::kBlockN * 128);
  __syncwarp();
  if (lane * params.box_rows >= C::kBlockN) return;
  uint32_t to = tiles + (ring.stage * kSlabs * C::kBlockN + lane * params.box_rows) * 128;
#pragma unroll 1
  for (int column = 0; column < 64 * kSlabs; column += 64) {
    ptx::tma_load(to, map, full, column, kv_head, row);
    to += C::kBlockN * 128;
  }
}

// Draws a tile and fills the slot: whether there was one.
template <class C>
__device__ __forceinline__ bool begin_tile(const Params& params, Smem<C> smem, Slot& slot,
                                           uint32_t stage, uint32_t index) {
  const uint32_t q_full = smem.q_full(stage);
  if (index >= params.num_tiles * params.num_units) {
    slot.q_row = -1;
    ptx::mbarrier_arrive(q_full);
    return false;
  }
  const Work work = find_work(params, index);
  const Tile tile = params.tiles[work.tile];
  slot = Slot{tile.q_row,   tile.q_count,    tile.kv_end,  tile.diagonal, work.unit, tile.kv_row,
              work.kv_head, tile.page_begin, tile.partial, tile.join,     {}};
  if (tile.kv_end == 0) {
    ptx::mbarrier_arrive(q_full);
    return true;
  }
  const int heads = params.heads_per_tile;
  ptx::mbarrier_arrive_expect(q_full, C::kBlockM / heads * heads * C::kD * 2);
#pragma unroll 1
  for (int slab = 0; slab < C::kD / 64; ++slab) {
    ptx::tma_load(smem.q(stage) + slab * C::kBlockM * 128, &params.q, q_full, slab * 64,
                  work.unit * heads, tile.q_row);
  }
  return true;
}

// The tile's fields stay in its slot and are read again for every block: registers are few here.
template <class C>
__device__ __forceinline__ void feed(const Params& params, Smem<C> smem, Slot* slots) {
  const int lane = threadIdx.x % 32;
  uint32_t index = blockIdx.x;  // of lane 0
  uint32_t seen = 0;
  uint32_t loaded = 0;  // blocks of K
  for (uint32_t tile = 0;; ++tile) {
    const Ring<C::kQStages> q_ring = ring_at<C::kQStages>(tile);
    ptx::mbarrier_wait(smem.q_empty(q_ring.stage), q_ring.parity ^ 1);
    const Slot& slot = slots[q_ring.stage];
    bool more = true;
    if (lane == 0) {
      more = begin_tile<C>(params, smem, slots[q_ring.stage], q_ring.stage, index);
      if (more) index = atomicAdd(&params.counters->next, 1u) + gridDim.x;
    }
    if (!__shfl_sync(0xffffffffu, more, 0)) break;

    // K runs one block ahead of V, as the consumers use them; the newest keys come first.
    const int blocks = (slot.kv_end + C::kBlockN - 1) / C::kBlockN;
#pragma unroll 1
    for (int block = blocks; block >= 0; --block) {
      if (block > 0) {
        const int row = box_row<C>(params, slot, block - 1);
        if (params.flags != nullptr) wait_for_sources<C>(params, slot, block - 1, row, seen);
        load_block<C, C::kD / 64>(params, &params.k, smem.k(0), smem.k_full(0), loaded,
                                  slot.kv_head, row);
        ++loaded;
      }
      if (block < blocks) {
        load_block<C, C::kDv / 64>(params, &params.v, smem.v(0), smem.v_full(0),
                                   loaded - (block > 0 ? 2 : 1), slot.kv_head,
                                   box_row<C>(params, slot, block));
      }
    }
  }
  if (lane == 0) leave(params);
}

}  // namespace longhaul::attention::cuda::sm90
