#pragma once
// What the sm_90a kernel gets, and its tile.

#include <cuda.h>

#include "moe/cuda/grouped_gemm.h"
#include "moe/cuda/sm90_gemm.h"

namespace longhaul::moe::cuda::sm90 {

// A cluster of two blocks makes a tile of 256 rows x 256 weight rows: 128 rows in each block. Both
// need all the weights: each fetches half of them for both.
constexpr int kCluster = 2;
constexpr int kBlockRows = 64;  // of one wgmma, and the unit in which a tile's end is skipped
constexpr int kRowBlocks = kSm90TileRows / kBlockRows / kCluster;  // of one block
constexpr int kWeightRows = 256;
constexpr int kDepth = 64;  // elements of a step: 128 bytes, one row of the swizzle
constexpr int kStages = 4;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kProducerRegs = 56;
constexpr int kConsumerRegs = 224;

constexpr int kBoxBytes = kBlockRows * kDepth * 2;  // every TMA box: 64 rows of 128 bytes
constexpr int kABytes = kRowBlocks * kBoxBytes;
constexpr int kBBytes = kWeightRows * kDepth * 2;
constexpr int kBOffset = kStages * kABytes;
constexpr int kOutOffset = kBOffset + kStages * kBBytes;  // two boxes for each warpgroup
constexpr int kBarrierOffset = kOutOffset + kConsumers * 2 * kBoxBytes;
constexpr int kSlotOffset = kBarrierOffset + kStages * 16;
constexpr int kSharedBytes = kSlotOffset + kStages * 16;
static_assert(kSharedBytes <= 227 * 1024);

struct Params {
  CUtensorMap a;        // [places, depth]: down
  CUtensorMap weights;  // [experts, weight rows, depth]
  CUtensorMap out_map;  // [places, columns]
  const RowTile* tiles;
  const int32_t* num_tiles;
  const int32_t* row;  // of a_rows for each place: gate_up
  const void* a_rows;
  void* out;
  int32_t columns;
  int32_t depth;
  int32_t steps;
};

// gate_up picks the rows of x itself; down finds them in order of the places.
template <Product kProduct>
constexpr bool kGathered = kProduct == Product::gate_up;

template <Product kProduct>
constexpr int kColumns = kProduct == Product::gate_up ? kWeightRows / 2 : kWeightRows;  // of a tile

// Clusters that the device runs at one time; a later one would start when all others are done.
cudaError_t count_clusters(Product product, int* clusters);

cudaError_t launch(const Params& params, Product product, int blocks, cudaStream_t stream);

}  // namespace longhaul::moe::cuda::sm90
