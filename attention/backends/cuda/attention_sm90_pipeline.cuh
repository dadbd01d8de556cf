#pragma once
// The shared memory of one thread block and the producer, which feeds it through TMA.

#include "attention/backends/cuda/attention_sm90_params.h"
#include "runtime/core/cuda/ptx.cuh"

namespace longhaul::attention::cuda::sm90 {

namespace ptx = ::longhaul::cuda::ptx;

// Position in a ring of shared-memory stages; parity flips each time round.
template <int kStages>
struct Ring {
  uint32_t stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Shared-memory addresses of one thread block.
template <class C>
struct Smem {
  uint32_t base;
  __device__ uint32_t q(uint32_t stage) const { return base + C::kQOffset + stage * C::kQBytes; }
  __device__ uint32_t k(uint32_t stage) const { return base + C::kKOffset + stage * C::kKBytes; }
  __device__ uint32_t v(uint32_t stage) const { return base + C::kVOffset + stage * C::kVBytes; }
  __device__ uint32_t q_full(uint32_t stage) const { return base + C::kBarrierOffset + 16 * stage; }
  __device__ uint32_t q_empty(uint32_t stage) const { return q_full(stage) + 8; }
  __device__ uint32_t k_full(uint32_t stage) const { return q_full(C::kQStages + stage); }
  __device__ uint32_t k_empty(uint32_t stage) const { return k_full(stage) + 8; }
  __device__ uint32_t v_full(uint32_t stage) const { return k_full(C::kStages + stage); }
  __device__ uint32_t v_empty(uint32_t stage) const { return v_full(stage) + 8; }
};

// What the producer tells the consumers about the tile in a query stage.
struct alignas(16) Slot {
  int32_t q_row;  // -1: no more work
  int32_t q_count;
  int32_t kv_end;
  int32_t diagonal;
  int32_t unit;  // head, or kv head where a group's heads share the tile
  int32_t kv_row;
  int32_t kv_head;
  int32_t page_begin;  // as in Tile; this and the next are for the general kernel
  int32_t partial;
  int32_t join;
  int32_t unused[2];
};
static_assert(sizeof(Slot) == 48);

// Unit `index` of the work: sections of heads outermost, then tiles longest first, then the heads
// of the section.
struct Work {
  uint32_t tile;
  int unit;
  int kv_head;
};
__device__ __forceinline__ Work find_work(const Params& params, uint32_t index) {
  const uint32_t section = index / (params.num_tiles * params.units_per_section);
  const uint32_t first = section * params.units_per_section;
  const uint32_t units = min(params.units_per_section, params.num_units - first);
  const uint32_t inside = index - first * params.num_tiles;
  const uint32_t unit = first + inside % units;
  return {inside / units, static_cast<int>(unit), static_cast<int>(unit / params.units_per_kv)};
}

// The thread that fed the block counts it out. Every block has drawn its last number by then.
__device__ __forceinline__ void leave(const Params& params) {
  if (atomicInc(&params.counters->finished, gridDim.x - 1) == gridDim.x - 1) {
    params.counters->next = 0;
  }
}

// Lane 0 reads, since lane 0 also gives the stage back. The compiler sees that all lanes have the
// same values and keeps them, and what follows from them, in uniform registers.
// Fields that are needed late are read late, by late_field.
__device__ __forceinline__ Slot read_slot(const Slot& from) {
  Slot slot{};
  if (threadIdx.x % 32 == 0) slot = from;
  const auto all = [](int32_t& x) { x = __shfl_sync(0xffffffffu, x, 0); };
  all(slot.q_row);
  all(slot.q_count);
  all(slot.kv_end);
  all(slot.diagonal);
  all(slot.unit);
  all(slot.kv_row);
  all(slot.kv_head);
  return slot;
}

// A field of the slot of the tile whose queries lie at q_tile, which has not been given back yet.
template <class C>
__device__ __forceinline__ int late_field(Smem<C> smem, uint32_t q_tile, uint32_t offset) {
  const uint32_t stage = (q_tile - smem.q(0)) / C::kQBytes;
  const uint32_t at = smem.base + C::kSlotOffset + stage * static_cast<uint32_t>(sizeof(Slot));
  return __shfl_sync(0xffffffffu, __float_as_int(ptx::load_shared_in_order(at + offset)), 0);
}

template <class C>
__device__ __forceinline__ void produce(const Params& params, Smem<C> smem, Slot* slots) {
  Ring<C::kQStages> q_ring;
  Ring<C::kStages> k_ring, v_ring;
  const uint32_t total = params.num_tiles * params.num_units;

  const auto load_k = [&](int row, int kv_head) {
    ptx::mbarrier_wait(smem.k_empty(k_ring.stage), k_ring.parity ^ 1);
    const uint32_t full = smem.k_full(k_ring.stage);
    ptx::mbarrier_arrive_expect(full, C::kKBytes);
#pragma unroll
    for (int slab = 0; slab < C::kD / 64; ++slab) {
      ptx::tma_load(smem.k(k_ring.stage) + slab * C::kBlockN * 128, &params.k, full, slab * 64,
                    kv_head, row);
    }
    k_ring.advance();
  };
  const auto load_v = [&](int row, int kv_head) {
    ptx::mbarrier_wait(smem.v_empty(v_ring.stage), v_ring.parity ^ 1);
    const uint32_t full = smem.v_full(v_ring.stage);
    ptx::mbarrier_arrive_expect(full, C::kVBytes);
#pragma unroll
    for (int slab = 0; slab < C::kDv / 64; ++slab) {
      ptx::tma_load(smem.v(v_ring.stage) + slab * C::kBlockN * 128, &params.v, full, slab * 64,
                    kv_head, row);
    }
    v_ring.advance();
  };

  uint32_t index = blockIdx.x;
  while (true) {
    ptx::mbarrier_wait(smem.q_empty(q_ring.stage), q_ring.parity ^ 1);
    const uint32_t q_full = smem.q_full(q_ring.stage);
    Slot& slot = slots[q_ring.stage];
    if (index >= total) {
      slot.q_row = -1;
      ptx::mbarrier_arrive(q_full);
      break;
    }
    const Work work = find_work(params, index);
    const Tile tile = params.tiles[work.tile];
    const int kv_head = work.kv_head;

    slot = Slot{tile.q_row,  tile.q_count,
                tile.kv_end, tile.diagonal,
                work.unit,   tile.kv_row,
                kv_head,     -1,
                -1,          0,
                {}};
    const int blocks = (tile.kv_end + C::kBlockN - 1) / C::kBlockN;
    if (blocks == 0) {
      ptx::mbarrier_arrive(q_full);
    } else {
      ptx::mbarrier_arrive_expect(q_full, C::kQBytes);
#pragma unroll
      for (int slab = 0; slab < C::kD / 64; ++slab) {
        ptx::tma_load(smem.q(q_ring.stage) + slab * C::kBlockM * 128, &params.q, q_full, slab * 64,
                      work.unit, tile.q_row);
      }
    }
    q_ring.advance();
    // Asked for early: the answer is needed only after this tile's loads.
    index = atomicAdd(&params.counters->next, 1u) + gridDim.x;

    // K runs one block ahead of V, as the consumers use them; the newest keys come first.
    for (int block = blocks - 1; block >= 0; --block) {
      load_k(tile.kv_row + block * C::kBlockN, kv_head);
      if (block < blocks - 1) load_v(tile.kv_row + (block + 1) * C::kBlockN, kv_head);
    }
    if (blocks > 0) load_v(tile.kv_row, kv_head);
  }
  leave(params);
}

}  // namespace longhaul::attention::cuda::sm90
