#pragma once
// What the planner and the launcher hand to the portable attention kernels, and the compile-time
// shapes of those kernels. Included by kernels, so without attention.h and the formatting library
// behind it, which nvcc does not compile.

#include <cuda_runtime.h>

#include <cstdint>

namespace longhaul::attention::cuda::portable {

// A run of queries of one item with the keys, or one part of the keys, that they see. Rows and
// positions are below 2^31. Key blocks begin at multiples of the kernel's block from key 0, so what
// a query's bits are does not depend on the tile it lies in.
struct Tile {
  int32_t q_row;       // of query 0
  int32_t q_count;     // 1 .. block of queries
  int32_t kv_row;      // of key 0
  int32_t page_begin;  // -1: no pages
  int32_t kv_begin;    // keys kv_begin .. kv_end - 1 are this part's
  int32_t kv_end;
  int32_t diagonal;       // query i of the tile sees keys up to diagonal + i
  int32_t part;           // of `parts`
  int32_t parts;          // 1: the output is written straight away
  int32_t split;          // ordinal among the tiles that are cut
  int32_t first_partial;  // parts of all cut tiles before this one
  int32_t reserved;
};
static_assert(sizeof(Tile) == 48);
inline constexpr int kMaxParts = 32;  // a lane each in the merge

// Workspace: first the partial results, block_m x head_dim_v outputs and then block_m LSEs for each
// cut tile, head and part; then a counter for each cut tile and head, counted back from the end.

enum class Output : uint8_t { bf16, f32, f32_accumulate };  // as OutType in attention.h
inline constexpr int kReadyWordRows = 64;                   // as kReadyRows there

struct Params {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* lse;
  int64_t q_stride, k_stride, v_stride, out_stride;  // elements from token to token
  const Tile* tiles;
  uint32_t* counters_end;
  float* partials;
  const int32_t* page_table;
  const uint32_t* flags;
  const uint32_t* row_sources;
  uint32_t flag_value;
  int32_t page_shift;  // log2 of the page size
  uint32_t num_tiles;
  uint32_t num_heads;
  uint32_t group;              // query heads per kv head
  uint32_t heads_per_section;  // heads that run through all tiles before the next heads start
  int32_t head_dim, head_dim_v;
  float scale;
  float scale_log2;  // scale * log2(e)
  Output output;
};

// bf16. D, Dv: largest head dims; MTiles: 16-row tiles of queries per warp; BlockN: keys at a time;
// Blocks: thread blocks that should share a multiprocessor. Rows in shared memory are 16 bytes
// longer than the data, which spreads the eight rows of an ldmatrix over all banks.
// Slots: blocks of keys or values in shared memory, on Hopper and later; two on the others.
template <int D, int Dv, int MTiles, int BlockN, int Blocks, int Slots>
struct Bf16Config {
  static constexpr int kD = D, kDv = Dv, kMTiles = MTiles, kBlocks = Blocks;
  __host__ __device__ static constexpr int slots(bool hopper) { return hopper ? Slots : 2; }
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kBlockM = 16 * MTiles * kWarps, kBlockN = BlockN;
  static constexpr int kQStride = 2 * D + 16, kVStride = 2 * Dv + 16;  // bytes; K's is Q's
  static constexpr int kSlotBytes = kBlockN * (kQStride > kVStride ? kQStride : kVStride);
  static constexpr int fixed_bytes(int /*head_dim*/) { return kBlockM * kQStride; }
};

// float32. Columns: groups of 64 output columns; a thread has 8 rows and 4 * Columns of them.
// Keys come in pieces of 32 dims, values in pieces of 16 keys.
template <int Columns, int Blocks, int Slots>
struct F32Config {
  __host__ __device__ static constexpr int slots(bool hopper) { return hopper ? Slots : 2; }
  static constexpr int kColumns = Columns, kBlocks = Blocks;
  static constexpr int kThreads = 128;
  static constexpr int kBlockM = 64, kBlockN = 64;
  static constexpr int kDims = 32, kKeys = 16;  // of a piece of K, of V
  static constexpr int kKStride = kDims + 4;    // floats, as in Bf16Config
  static constexpr int kPStride = kBlockN + 4;  // weights
  static constexpr int kVStride = 64 * Columns;
  static constexpr int kKFloats = kBlockN * kKStride, kVFloats = kKeys * kVStride;
  static constexpr int kSlotBytes = 4 * (kKFloats > kVFloats ? kKFloats : kVFloats);
  __host__ __device__ static constexpr int padded(int head_dim) {
    return (head_dim + kDims - 1) / kDims * kDims;
  }
  __host__ __device__ static constexpr int q_stride(int head_dim) { return padded(head_dim) + 4; }
  static constexpr int fixed_bytes(int head_dim) {
    return 4 * kBlockM * (q_stride(head_dim) + kPStride);
  }
};

using Bf16D32 = Bf16Config<32, 32, 2, 64, 3, 3>;
using Bf16D64 = Bf16Config<64, 64, 2, 128, 2, 3>;
using Bf16D96 = Bf16Config<96, 96, 2, 64, 2, 3>;
using Bf16D128 = Bf16Config<128, 128, 2, 64, 2, 3>;
using Bf16D192 = Bf16Config<192, 128, 2, 64, 2, 2>;
using Bf16D256 = Bf16Config<256, 256, 1, 64, 2, 2>;
using F32Dv64 = F32Config<1, 3, 3>;
using F32Dv128 = F32Config<2, 2, 3>;
using F32Dv256 = F32Config<4, 1, 3>;

// One configuration each, compiled in a file of its own so that compilations run side by side.
// Returns what the launch said.
template <class C>
cudaError_t launch(const Params& params, unsigned blocks, int shared_bytes, cudaStream_t stream);

extern template cudaError_t launch<Bf16D32>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<Bf16D64>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<Bf16D96>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<Bf16D128>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<Bf16D192>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<Bf16D256>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<F32Dv64>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<F32Dv128>(const Params&, unsigned, int, cudaStream_t);
extern template cudaError_t launch<F32Dv256>(const Params&, unsigned, int, cudaStream_t);

}  // namespace longhaul::attention::cuda::portable
