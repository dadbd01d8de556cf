#pragma once
// Matrix products of groups of rows with their experts' weights. The tiles come from a table on the
// device, so that nobody has to know the groups' sizes on the host.

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/cuda/permutation.h"

namespace longhaul::moe::cuda {

// gate_up: out[place, i] = silu(gate) * up, gate and up being rows i and columns + i of the
// expert's
//          weights [2 * columns, depth] times the place's row; silu and the product in float32.
// down:    out[place, i] = row i of the expert's weights [columns, depth] times the place's row.
// Sums in float32, one rounding at the end.
enum class Product { gate_up, down };

struct GroupedGemm {
  const RowTile* tiles = nullptr;
  const int32_t* num_tiles = nullptr;
  int64_t most_tiles = 0;         // bound of *num_tiles
  const int32_t* row = nullptr;   // of `a` for each place; null: the place itself
  const void* a = nullptr;        // [a_rows, depth]
  const void* weights = nullptr;  // [num_experts, columns or 2 * columns, depth]
  void* out = nullptr;            // [places, columns]
  int64_t a_rows = 0;
  int64_t places = 0;
  int64_t depth = 0;
  int64_t columns = 0;
  int num_experts = 0;
  int multiprocessors = 0;
};

constexpr int kPortableTileRows = 128;
cudaError_t portable_gemm_f32(const GroupedGemm& g, Product product, cudaStream_t stream);
cudaError_t portable_gemm_bf16(const GroupedGemm& g, Product product, cudaStream_t stream);

}  // namespace longhaul::moe::cuda
