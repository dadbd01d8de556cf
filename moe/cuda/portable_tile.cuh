#pragma once
// What the portable kernels share: which tile comes next, and which weight row is which column.

#include "moe/cuda/grouped_gemm.h"

namespace longhaul::moe::cuda {

constexpr int kTileRows = kPortableTileRows;
constexpr int kTileWeights = 128;  // weight rows in a tile

template <Product kProduct>
struct Columns {
  static constexpr bool kGated = kProduct == Product::gate_up;
  static constexpr int kPerTile = kGated ? kTileWeights / 2 : kTileWeights;

  // The weight row of row r of the tile at column `first`, -1 where there is none. The first half
  // of a gated tile are gate rows, the second their up rows.
  static __device__ __forceinline__ int64_t weight_row(int64_t first, int r, int64_t columns) {
    const int64_t column = first + (kGated ? r % kPerTile : r);
    if (column >= columns) return -1;
    return kGated && r >= kPerTile ? columns + column : column;
  }
};

__device__ __forceinline__ float gated(float gate, float up) {
  return gate / (1.f + expf(-gate)) * up;
}

// Calls body(row tile, first column) for every tile of this block.
template <Product kProduct, class Body>
__device__ __forceinline__ void for_each_tile(const GroupedGemm& g, Body&& body) {
  const int64_t across =
      (g.columns + Columns<kProduct>::kPerTile - 1) / Columns<kProduct>::kPerTile;
  const int64_t total = *g.num_tiles * across;
  for (int64_t i = blockIdx.x; i < total; i += gridDim.x) {
    // Down the group's row tiles first, for they share weights.
    const RowTile any = g.tiles[i / across];
    const int64_t inside = i - any.group_first * across;
    const RowTile tile = g.tiles[any.group_first + inside % any.group_size];
    body(tile, inside / any.group_size * Columns<kProduct>::kPerTile);
  }
}

}  // namespace longhaul::moe::cuda
