#pragma once
// What the sm_90a kernel gets, and its tile.

#include <cuda.h>

#include "moe/cuda/grouped_gemm.h"
#include "moe/cuda/sm90_gemm.h"

namespace longhaul::moe::cuda::sm90 {

// A cluster of two blocks works on 256 rows; each block on its own 128 weight rows. Both need all
// the rows: each fetches half of them for both.
constexpr int kCluster = 2;
constexpr int kBlockRows = 64;  // of one wgmma, and the unit in which a tile's end is skipped
constexpr int kRowBlocks = kSm90TileRows / kBlockRows;
constexpr int kWeightRows = 128;
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
constexpr int kBarrierOffset = kBOffset + kStages * kBBytes;
constexpr int kSlotOffset = kBarrierOffset + kStages * 16;
constexpr int kSharedBytes = kSlotOffset + kStages * 16;
static_assert(kSharedBytes <= 227 * 1024);

struct Params {
  CUtensorMap a;        // [places, depth]
  CUtensorMap weights;  // [experts, weight rows, depth]
  const RowTile* tiles;
  const int32_t* num_tiles;
  void* out;
  int32_t columns;
  int32_t steps;
};

template <Product kProduct>
constexpr int kColumns =
    kProduct == Product::gate_up ? kWeightRows / 2 : kWeightRows;  // of a block

// Clusters that the device runs at one time; a later one would start when all others are done.
cudaError_t count_clusters(Product product, int* clusters);

cudaError_t launch(const Params& params, Product product, int blocks, cudaStream_t stream);

}  // namespace longhaul::moe::cuda::sm90
