#pragma once
// The shared memory of one thread block and the warpgroup that feeds it.

#include "moe/cuda/sm90_params.h"
#include "runtime/core/cuda/cluster.cuh"
#include "runtime/core/cuda/ptx.cuh"

namespace longhaul::moe::cuda::sm90 {

namespace ptx = ::longhaul::cuda::ptx;

// Position in the ring of stages; parity flips each time round.
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

struct Smem {
  uint32_t base;
  __device__ uint32_t a(uint32_t stage) const { return base + stage * kABytes; }
  __device__ uint32_t b(uint32_t stage) const { return base + kBOffset + stage * kBBytes; }
  __device__ uint32_t out(int group) const {
    return base + kOutOffset + static_cast<uint32_t>(group) * 2 * kBoxBytes;
  }
  __device__ uint32_t full(uint32_t stage) const { return base + kBarrierOffset + 16 * stage; }
  __device__ uint32_t empty(uint32_t stage) const { return full(stage) + 8; }
};

// What the producer tells the consumers about a tile. It stands in the slot of number tile %
// kStages and is published with the tile's first step; since a tile has at least one step, the
// slot's reader has given that step back before the slot is written again.
struct alignas(16) Slot {
  int32_t place;   // first row of the output
  int32_t rows;    // 0: no more work
  int32_t column;  // first column of the tile
  int32_t unused;
};

struct Tile {
  int32_t expert, place, rows, column;  // rows 0: no more work
};

// Finds this cluster's tiles, one after another. A look-up is two loads of which the second depends
// on the first (and the gatherer's a third): done in parts between the steps of the tile before,
// nobody waits for them.
template <Product kProduct>
class Tiles {
 public:
  // Less than 2^31 tiles in all: checked by the host.
  __device__ __forceinline__ explicit Tiles(const Params& params)
      : tiles_(params.tiles),
        across_((params.columns + kColumns<kProduct> - 1) / kColumns<kProduct>),
        total_(*params.num_tiles * across_),
        index_(static_cast<int>(blockIdx.x) / kCluster) {}
  __device__ __forceinline__ void look_up_group() {
    if (index_ >= total_) return;
    const RowTile& any = tiles_[index_ / across_];
    first_ = any.group_first;
    size_ = any.group_size;
  }
  __device__ __forceinline__ Tile look_up_tile() {
    if (index_ >= total_) return Tile{};
    // Down the group's row tiles first, for they share weights.
    const int inside = index_ - first_ * across_;
    const RowTile& tile = tiles_[first_ + inside % size_];
    index_ += static_cast<int>(gridDim.x) / kCluster;
    return Tile{tile.expert, tile.place, tile.rows, inside / size_ * kColumns<kProduct>};
  }

 private:
  const RowTile* tiles_;
  int across_, total_, index_, first_ = 0, size_ = 1;
};

// Weights of one step, this block's half of them, for both blocks.
template <Product kProduct>
__device__ __forceinline__ void load_weights(const Params& params, Smem smem, uint32_t stage,
                                             uint32_t rank, int k, int column, int expert) {
  constexpr int kEach = kWeightRows / kBlockRows / kCluster;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int box = static_cast<int>(rank) * kEach + i;
    // Gate rows fill the first half, the same columns' up rows the second.
    const int row = kProduct == Product::gate_up
                        ? (rank == 0 ? column : params.columns + column) + i * kBlockRows
                        : column + box * kBlockRows;
    ptx::tma_load_multicast(smem.b(stage) + box * kBoxBytes, &params.weights, smem.full(stage),
                            (1 << kCluster) - 1, k, row, expert);
  }
}

// Row block b of the tile belongs to block b % 2 of the cluster and there to warpgroup b / 2, so
// that a short tile is shared out evenly.
__device__ __forceinline__ int blocks_of(uint32_t rank, int rows) {
  const int row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  return (row_blocks - static_cast<int>(rank) + kCluster - 1) / kCluster;
}

// Rows of `a` by TMA, in order of the places. One thread.
template <Product kProduct>
__device__ __forceinline__ void produce_in_order(const Params& params, Smem smem, Slot* slots) {
  const uint32_t rank = ptx::cluster_rank();
  Tiles<kProduct> tiles(params);
  Ring ring;
  uint32_t slot = 0;
  tiles.look_up_group();
  Tile tile = tiles.look_up_tile();
  while (tile.rows > 0) {
    const int blocks = blocks_of(rank, tile.rows);
    Tile next{};
    for (int step = 0; step < params.steps; ++step) {
      ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
      if (step == 0) slots[slot] = Slot{tile.place, tile.rows, tile.column, 0};
      const uint32_t full = smem.full(ring.stage);
      ptx::mbarrier_arrive_expect(full, static_cast<uint32_t>(blocks) * kBoxBytes + kBBytes);
      const int k = step * kDepth;
      load_weights<kProduct>(params, smem, ring.stage, rank, k, tile.column, tile.expert);
      for (int i = 0; i < blocks; ++i)
        ptx::tma_load(smem.a(ring.stage) + i * kBoxBytes, &params.a, full, k,
                      tile.place + (static_cast<int>(rank) + kCluster * i) * kBlockRows, 0);
      ring.advance();
      if (step == 0) tiles.look_up_group();
      if (step == 1) next = tiles.look_up_tile();
    }
    if (params.steps == 1) next = tiles.look_up_tile();
    tile = next;
    slot = (slot + 1) % kStages;
  }
  ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
  slots[slot] = Slot{};
  ptx::mbarrier_arrive(smem.full(ring.stage));
}

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Arrives on the barrier once this thread's copies so far are done.
__device__ __forceinline__ void arrive_after_copies(uint32_t bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}

// Rows of `a` picked by params.row, copied by all 128 threads in the layout that TMA would write:
// 16-byte word c of row r stands at word c ^ (r % 8).
template <Product kProduct>
__device__ __forceinline__ void produce_gathered(const Params& params, Smem smem, Slot* slots) {
  constexpr int kRowsPerPass = 128 / 8;
  constexpr int kPasses = kBlockRows / kRowsPerPass;  // of a row block
  const uint32_t rank = ptx::cluster_rank();
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 8, word = thread % 8;
  const auto to_row = static_cast<uint32_t>(row * 128 + ((word ^ (row % 8)) * 16));
  const auto look_up_rows = [&](const Tile& tile, int32_t(&source)[2 * kPasses]) {
#pragma unroll
    for (int i = 0; i < 2 * kPasses; ++i) {
      const int r = (static_cast<int>(rank) + kCluster * (i / kPasses)) * kBlockRows +
                    i % kPasses * kRowsPerPass + row;
      source[i] = tile.rows > 0 ? params.row[tile.place + min(r, tile.rows - 1)] : 0;
    }
  };
  const char* const rows = static_cast<const char*>(params.a_rows) + word * 16;
  const int64_t pitch = static_cast<int64_t>(params.depth) * 2;
  Tiles<kProduct> tiles(params);
  Ring ring;
  uint32_t slot = 0;
  tiles.look_up_group();
  Tile tile = tiles.look_up_tile();
  int32_t source[2 * kPasses];
  look_up_rows(tile, source);
  while (tile.rows > 0) {
    const int blocks = blocks_of(rank, tile.rows);
    const char* from[2 * kPasses];
#pragma unroll
    for (int i = 0; i < 2 * kPasses; ++i) from[i] = rows + source[i] * pitch;
    Tile next{};
    for (int step = 0; step < params.steps; ++step) {
      ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
      const uint32_t full = smem.full(ring.stage);
      const int k = step * kDepth;
      if (thread == 0) {
        if (step == 0) slots[slot] = Slot{tile.place, tile.rows, tile.column, 0};
        ptx::mbarrier_arrive_expect(full, kBBytes);
        load_weights<kProduct>(params, smem, ring.stage, rank, k, tile.column, tile.expert);
      }
      __syncwarp();
      const bool inside = k + word * 8 < params.depth;
      const uint32_t to = smem.a(ring.stage) + to_row;
      const int64_t skip = inside ? static_cast<int64_t>(k) * 2 : 0;
#pragma unroll
      for (int i = 0; i < 2 * kPasses; ++i) {
        if (i / kPasses < blocks) copy16(to + i * kRowsPerPass * 128, from[i] + skip, inside);
      }
      arrive_after_copies(full);
      ring.advance();
      if (step == 0) tiles.look_up_group();
      if (step == 1) next = tiles.look_up_tile();
      if (step == 2) look_up_rows(next, source);
    }
    if (params.steps == 1) next = tiles.look_up_tile();
    if (params.steps <= 2) look_up_rows(next, source);
    tile = next;
    slot = (slot + 1) % kStages;
  }
  ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
  if (thread == 0) {
    slots[slot] = Slot{};
    ptx::mbarrier_arrive(smem.full(ring.stage));
  }
  arrive_after_copies(smem.full(ring.stage));
}

}  // namespace longhaul::moe::cuda::sm90
