#pragma once
// The work table of the sm_90a attention kernel, as host and device see it.

#include <cstddef>
#include <cstdint>

namespace longhaul::attention::cuda::sm90 {

// One block of consecutive queries of one item and a range of its keys; the kernel visits every
// head of it, or where heads share tiles (Plan::heads_per_tile) every kv head.
struct Tile {
  int32_t q_row = 0;        // first row of q
  int32_t q_count = 0;      // rows of q, 1 .. rows_per_tile / heads_per_tile
  int32_t kv_row = 0;       // row of k and v that holds key 0; with pages: its place among them
  int32_t kv_end = 0;       // keys that at least one query of the tile sees
  int32_t diagonal = 0;     // query i of the tile sees keys j <= i + diagonal
  int32_t page_begin = -1;  // first entry of the page table; -1: no pages
  int32_t partial = -1;     // where the result waits for the merge; -1: it is final
  int32_t join = 0;         // a partial of few: part << 8 | parts, joined by the last to arrive;
                            // 0: the merge kernel has it
};
static_assert(sizeof(Tile) == 32, "the kernel reads a tile as two 16-byte words");

// Tiles cut into more parts than this leave the joining to a second kernel; at head dim 64, whose
// kernel has no registers to spare, all do.
inline constexpr int kMostJoinedParts = 4;
constexpr bool joins_parts(int head_dim) {
  return head_dim != 64;
}

// Such a tile: partials first .. first + count - 1, in ascending order of keys.
struct Merge {
  int32_t q_row = 0;
  int32_t q_count = 0;
  int32_t first = 0;
  int32_t count = 0;
};
static_assert(sizeof(Merge) == 16);

// The workspace: tile counters, then a counter of the parts done for every 16 rows (of one warp,
// which joins them), then partial results. The counters' place is the same for all plans, so that
// these may share a workspace that was zeroed once.
inline constexpr int kRowsPerArrival = 16;
inline constexpr int kMostPartialTiles = 1024;  // partials x the heads that visit each
inline constexpr size_t kCountersBytes = 256;
inline constexpr size_t kWorkspaceHeader = kCountersBytes + kMostPartialTiles * (192 / 16) * 4;

}  // namespace longhaul::attention::cuda::sm90
