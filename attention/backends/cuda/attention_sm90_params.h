#pragma once
// What the launcher hands to the sm_90a attention kernel, and the compile-time shape of a kernel.

#include <cuda.h>

#include <cstdint>

#include "attention/backends/cuda/attention_sm90_tile.h"

namespace longhaul::attention::sm90 {

// Tile counters at the head of the workspace. The last thread block to leave sets them back, so the
// next launch finds zeros again.
struct Counters {
  unsigned next;      // tiles handed out beyond the first one of each block
  unsigned finished;  // thread blocks that found no more work
};
static_assert(sizeof(Counters) <= kWorkspaceHeader);

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
  uint32_t group;              // query heads per kv head
  uint32_t heads_per_section;  // heads that run through all tiles before the next heads start
  float scale_log2;            // scale * log2(e)
  bool out_f32;
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

  static constexpr int kQBytes = kBlockM * kD * 2;
  static constexpr int kKBytes = kBlockN * kD * 2;
  static constexpr int kVBytes = kBlockN * kDv * 2;
  // Shared memory from a 1024-byte boundary: queries, keys, values, then barriers and tile slots.
  static constexpr int kQOffset = 0;
  static constexpr int kKOffset = kQOffset + kQStages * kQBytes;
  static constexpr int kVOffset = kKOffset + kStages * kKBytes;
  static constexpr int kBarrierOffset = kVOffset + kStages * kVBytes;
  static constexpr int kSlotOffset = kBarrierOffset + 16 * (kQStages + 2 * kStages);
  static constexpr int kZeroOffset = kSlotOffset + 32 * kQStages;  // a word that is always 0
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

}  // namespace longhaul::attention::sm90
