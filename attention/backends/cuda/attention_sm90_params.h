#pragma once
// What the launcher hands to the sm_90a attention kernel, and the compile-time shape of a kernel.

#include <cuda.h>

#include <cstdint>

#include "attention/backends/cuda/attention_sm90_tile.h"

namespace longhaul::attention::cuda::sm90 {

// Tile counters at the head of the workspace. The last thread block to leave sets them back, so the
// next launch finds zeros again.
struct Counters {
  unsigned next;      // tiles handed out beyond the first one of each block
  unsigned finished;  // thread blocks that found no more work
};
static_assert(sizeof(Counters) <= kCountersBytes);

struct Params {
  CUtensorMap q, k, v;  // [rows, heads, 64-column slabs], 128-byte swizzle
  const Tile* tiles;
  Counters* counters;
  const void* k_data;  // the keys again, for recomputing scores outside the pipeline
  int64_t k_stride;
  void* out;
  float* lse;
  int64_t out_stride;
  uint32_t num_tiles;
  uint32_t num_heads;
  uint32_t num_units;          // that visit each tile: heads, or kv heads where groups share tiles
  uint32_t units_per_kv;       // query heads per kv head, or 1
  uint32_t units_per_section;  // units that run through all tiles before the next ones start
  float scale_log2;            // scale * log2(e)
  bool out_f32;

  // Read by the general kernel only.
  bool accumulate;  // out and lse hold a partial result to merge with
  bool exact;       // no quick softmax, so that a row does not depend on its neighbours
  int32_t heads_per_tile;
  int32_t box_rows;  // rows of k and v that one copy brings: a block, or what of it lies in a page
  int32_t page_shift;  // log2 of the page size
  const int32_t* page_table;
  const uint32_t* flags;  // null: all rows are there
  const uint32_t* row_sources;
  uint32_t flag_value;
  unsigned* arrivals;     // [partials, units, kBlockM / 16]: parts done; of the first part
  float* partial_out;     // [partials, units, kBlockM, kDv], not normalised
  float2* partial_state;  // [partials, units, kBlockM]: shift, sum of weights
};

// The second kernel, which joins the parts of tiles whose keys were cut.
struct MergeParams {
  const Merge* merges;
  const float* partial_out;
  const float2* partial_state;
  void* out;
  float* lse;
  int64_t out_stride;
  int32_t num_heads;
  int32_t num_units;
  int32_t heads_per_tile;
  int32_t rows_per_tile;
  int32_t head_dim_v;
  bool out_f32;
  bool accumulate;
};

// kD, kDv: head dims; kWarpgroups: consumers, 64 query rows each; kBlockN: keys per block; kStages:
// blocks of K and of V in flight; kQStages: query tiles in flight.
template <int D, int Dv, int Warpgroups, int BlockN, int Stages, int QStages, int ProducerRegs,
          int ConsumerRegs, bool PingPong, bool QInRegisters>
struct Config {
  static constexpr int kD = D;
  static constexpr int kDv = Dv;
  static constexpr int kWarpgroups = Warpgroups;
  static constexpr int kBlockM = 64 * Warpgroups;
  static constexpr int kBlockN = BlockN;
  static constexpr int kStages = Stages;
  static constexpr int kQStages = QStages;
  static constexpr int kProducerRegs = ProducerRegs;
  static constexpr int kConsumerRegs = ConsumerRegs;
  static constexpr bool kPingPong = PingPong;
  static constexpr bool kQInRegisters = QInRegisters;
  static constexpr int kThreads = 128 * (Warpgroups + 1);
  static constexpr bool kGeneral = false;

  static constexpr int kQBytes = kBlockM * kD * 2;
  static constexpr int kKBytes = kBlockN * kD * 2;
  static constexpr int kVBytes = kBlockN * kDv * 2;
  // Shared memory from a 1024-byte boundary: queries, keys, values, then barriers and tile slots.
  static constexpr int kQOffset = 0;
  static constexpr int kKOffset = kQOffset + kQStages * kQBytes;
  static constexpr int kVOffset = kKOffset + kStages * kKBytes;
  static constexpr int kBarrierOffset = kVOffset + kStages * kVBytes;
  static constexpr int kSlotOffset = kBarrierOffset + 16 * (kQStages + 2 * kStages);
  static constexpr int kZeroOffset = kSlotOffset + 48 * kQStages;  // a word that is always 0
  static constexpr int kSharedBytes = kZeroOffset + 16;

  static_assert(kSharedBytes <= 227 * 1024);
  static_assert(kD % 64 == 0 && kDv % 64 == 0 && kBlockN % 16 == 0);
  static_assert((kProducerRegs + kWarpgroups * kConsumerRegs) * 128 <= 65536);
};

// Chosen by measurement (docs/performance_gpu.md).
using ConfigD128 = Config<128, 128, 2, 128, 2, 2, 24, 240, true, true>;
using ConfigD64 = Config<64, 64, 3, 128, 3, 2, 32, 160, true, false>;
using ConfigD256 = Config<256, 256, 2, 80, 2, 1, 24, 240, false, false>;
using ConfigD192 = Config<192, 128, 2, 128, 2, 1, 24, 240, true, false>;

// The same with everything that the plain kernel leaves out: pages, ready flags, heads that share a
// tile, cut keys, merging into out, results that do not depend on neighbouring rows.
// Its producer has more to keep in registers, which come from the consumers.
template <class Base>
struct General : Base {
  static constexpr bool kGeneral = true;
  static constexpr bool kJoins = joins_parts(Base::kD);
  static constexpr int kFromEach = Base::kWarpgroups == 2 ? 8 : 0;
  static constexpr int kConsumerRegs = Base::kConsumerRegs - kFromEach;
  static constexpr int kProducerRegs = Base::kProducerRegs + kFromEach * Base::kWarpgroups;
};

}  // namespace longhaul::attention::cuda::sm90
