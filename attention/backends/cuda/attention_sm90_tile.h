#pragma once
// The work table of the sm_90a attention kernel, as host and device see it (C++17, for nvcc).

#include <cstddef>
#include <cstdint>

namespace longhaul::attention::sm90 {

// One block of consecutive queries of one item; the kernel visits every head of it.
struct Tile {
  int32_t q_row = 0;     // first row of q
  int32_t q_count = 0;   // rows, 1 .. queries_per_tile
  int32_t kv_row = 0;    // row of k and v that holds key 0
  int32_t kv_end = 0;    // keys that at least one query of the tile sees
  int32_t diagonal = 0;  // query i of the tile sees keys j <= i + diagonal
  int32_t unused[3] = {};
};
static_assert(sizeof(Tile) == 32, "the kernel reads a tile as two 16-byte words");

inline constexpr size_t kWorkspaceHeader = 256;  // bytes before the table: counters, zeroed once

}  // namespace longhaul::attention::sm90
