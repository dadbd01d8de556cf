#pragma once
// Which rows go to which expert, worked out on the device: the counterpart of moe/dispatch_plan.h.
// A "place" is a row's position after sorting (row, slot) pairs by expert, ascending row within
// one.

#include <cuda_runtime.h>

#include <cstdint>

namespace longhaul::moe::cuda {

// Up to tile_rows consecutive places of one expert: the rows of one matrix product tile. Tiles are
// worked on in groups of neighbours that share the expert's weights.
struct alignas(16) RowTile {
  int32_t expert = 0;
  int32_t place = 0;  // first
  int32_t rows = 0;
  int32_t group_first = 0;  // index of the group's first tile
  int32_t group_size = 0;
  int32_t unused[3] = {};
};

constexpr int kMostExperts = 1024;
constexpr int kMostTopK = 32;
constexpr int kTilesPerGroup = 8;

// Pointers into the caller's scratch memory.
struct Permutation {
  int64_t pairs = 0;  // rows * top_k, less than 2^31
  int top_k = 0;
  int num_experts = 0;
  int tile_rows = 0;
  int32_t* chunk_counts = nullptr;  // [chunks(pairs), num_experts]
  int32_t* expert_begin = nullptr;  // [num_experts + 1]
  int32_t* row = nullptr;           // [pairs] source row of a place
  int32_t* place = nullptr;         // [pairs] place of (row, slot)
  RowTile* tiles = nullptr;         // [most_tiles()]
  int32_t* num_tiles = nullptr;     // [1]
};

// Pairs are counted and placed in chunks, one warp each.
int64_t pairs_per_chunk(int64_t pairs);
int64_t chunks(int64_t pairs);
inline int64_t most_tiles(int64_t pairs, int num_experts, int tile_rows) {
  return pairs / tile_rows + num_experts;
}

// Fills everything that `p` points to. ids [rows, top_k].
cudaError_t make_permutation(const Permutation& p, const int32_t* ids, cudaStream_t stream);

// out[r] = (residual ? out[r] : 0) + sum over k of weights[r, k] * y[place[r, k]] in ascending
// order of the expert number, in float32. y, out bf16 or (f32) float, rows of `hidden` elements.
cudaError_t combine_rows(const Permutation& p, const int32_t* ids, const float* weights,
                         const void* y, void* out, int64_t hidden, bool f32, bool residual,
                         cudaStream_t stream);

// moe::route() on the device.
cudaError_t route_rows(const float* logits, int64_t rows, int num_experts, int top_k,
                       bool normalize, int32_t* ids, float* weights, cudaStream_t stream);

}  // namespace longhaul::moe::cuda
