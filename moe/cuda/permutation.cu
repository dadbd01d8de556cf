#include <cuda_bf16.h>

#include <algorithm>

#include "moe/cuda/permutation.h"

namespace longhaul::moe::cuda {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr int kScanThreads = 1024;
constexpr int64_t kMostChunks = 512;
constexpr uint32_t kAllLanes = 0xffffffffu;

// An id that is no expert would write outside every buffer: better a failed stream.
__device__ __forceinline__ int32_t checked_expert(int32_t id, int num_experts) {
  if (static_cast<uint32_t>(id) >= static_cast<uint32_t>(num_experts)) __trap();
  return id;
}

// chunk_counts[chunk, e] = pairs of the chunk that choose e. Adding integers has no order.
__global__ void __launch_bounds__(kWarpsPerBlock * 32)
    count_kernel(Permutation p, const int32_t* __restrict__ ids, int64_t per_chunk,
                 int64_t num_chunks) {
  extern __shared__ int32_t counts[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int32_t* const mine = counts + warp * p.num_experts;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (chunk >= num_chunks) return;
  for (int e = lane; e < p.num_experts; e += 32) mine[e] = 0;
  __syncwarp();
  const int64_t end = min(p.pairs, (chunk + 1) * per_chunk);
  for (int64_t i = chunk * per_chunk + lane; i < end; i += 32)
    atomicAdd(&mine[checked_expert(ids[i], p.num_experts)], 1);
  __syncwarp();
  for (int e = lane; e < p.num_experts; e += 32)
    p.chunk_counts[chunk * p.num_experts + e] = mine[e];
}

// Inclusive sums over the block's values, in place.
__device__ void scan_block(int32_t* values, int count) {
  for (int step = 1; step < count; step *= 2) {
    const int i = threadIdx.x;
    const int32_t add = i < count && i >= step ? values[i - step] : 0;
    __syncthreads();
    if (i < count) values[i] += add;
    __syncthreads();
  }
}

// One block: turns counts into first places, and lists the tiles.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(Permutation p, int64_t num_chunks, int experts_padded) {
  __shared__ int32_t part[kScanThreads];      // [segment, expert]
  __shared__ int32_t last[kMostExperts + 1];  // [e + 1]: places up to and with expert e
  __shared__ int32_t tiles_to[kMostExperts + 1];
  const int e = threadIdx.x % experts_padded, segment = threadIdx.x / experts_padded;
  const int segments = kScanThreads / experts_padded;
  const int64_t begin = num_chunks * segment / segments;
  const int64_t end = num_chunks * (segment + 1) / segments;
  const bool real = e < p.num_experts;

  int32_t sum = 0;
  if (real) {
#pragma unroll 8
    for (int64_t c = begin; c < end; ++c) sum += p.chunk_counts[c * p.num_experts + e];
  }
  part[threadIdx.x] = sum;
  if (threadIdx.x == 0) last[0] = tiles_to[0] = 0;
  __syncthreads();
  if (threadIdx.x < p.num_experts) {
    int32_t total = 0;
    for (int s = 0; s < segments; ++s) total += part[s * experts_padded + threadIdx.x];
    last[threadIdx.x + 1] = total;
    tiles_to[threadIdx.x + 1] = (total + p.tile_rows - 1) / p.tile_rows;
  }
  __syncthreads();
  scan_block(last + 1, p.num_experts);
  scan_block(tiles_to + 1, p.num_experts);

  if (real) {
    int32_t place = last[e];
    for (int s = 0; s < segment; ++s) place += part[s * experts_padded + e];
#pragma unroll 8
    for (int64_t c = begin; c < end; ++c) {
      int32_t& count = p.chunk_counts[c * p.num_experts + e];
      const int32_t here = count;
      count = place;
      place += here;
    }
  }
  if (threadIdx.x <= p.num_experts) p.expert_begin[threadIdx.x] = last[threadIdx.x];
  if (p.num_experts == kScanThreads && threadIdx.x == 0)
    p.expert_begin[p.num_experts] = last[p.num_experts];
  const int32_t num_tiles = tiles_to[p.num_experts];
  if (threadIdx.x == 0) *p.num_tiles = num_tiles;
  for (int32_t i = threadIdx.x; i < num_tiles; i += kScanThreads) {
    int low = 0, high = p.num_experts;  // tiles_to[low] <= i < tiles_to[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (tiles_to[middle] <= i ? low : high) = middle;
    }
    const int32_t inside = i - tiles_to[low];
    const int32_t group = inside / kTilesPerGroup * kTilesPerGroup;
    RowTile tile;
    tile.expert = low;
    tile.place = last[low] + inside * p.tile_rows;
    tile.rows = min(p.tile_rows, last[low + 1] - tile.place);
    tile.group_first = tiles_to[low] + group;
    tile.group_size = min(kTilesPerGroup, tiles_to[low + 1] - tile.group_first);
    p.tiles[i] = tile;
  }
}

// Each warp gives its chunk's pairs their places, 32 pairs at a time, in ascending order.
__global__ void __launch_bounds__(kWarpsPerBlock * 32)
    place_kernel(Permutation p, const int32_t* __restrict__ ids, int64_t per_chunk,
                 int64_t num_chunks) {
  extern __shared__ int32_t next_places[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int32_t* const next = next_places + warp * p.num_experts;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (chunk >= num_chunks) return;
  for (int e = lane; e < p.num_experts; e += 32)
    next[e] = p.chunk_counts[chunk * p.num_experts + e];
  __syncwarp();
  const int64_t begin = chunk * per_chunk, end = min(p.pairs, begin + per_chunk);
  int32_t ahead = begin + lane < end ? ids[begin + lane] : -1;
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t i = first + lane;
    const int32_t e = ahead;
    ahead = i + 32 < end ? ids[i + 32] : -1;
    const uint32_t same = __match_any_sync(kAllLanes, e);
    const int before = __popc(same & ((1u << lane) - 1));
    int32_t place = 0;
    if (e >= 0) place = next[e] + before;
    __syncwarp();
    if (e >= 0 && before == 0) next[e] = place + __popc(same);
    __syncwarp();
    if (e >= 0) {
      p.place[i] = place;
      p.row[place] = static_cast<int32_t>(i / p.top_k);
    }
  }
}

// 16 bytes of elements as floats and back.
struct Floats {
  static constexpr int kCount = 4;
  static __device__ __forceinline__ void unpack(uint4 w, float* f) {
    f[0] = __uint_as_float(w.x), f[1] = __uint_as_float(w.y);
    f[2] = __uint_as_float(w.z), f[3] = __uint_as_float(w.w);
  }
  static __device__ __forceinline__ uint4 pack(const float* f) {
    return make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]),
                      __float_as_uint(f[3]));
  }
};
struct Bfloats {
  static constexpr int kCount = 8;
  static __device__ __forceinline__ void unpack(uint4 w, float* f) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      f[2 * i] = __uint_as_float(words[i] << 16);
      f[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
  static __device__ __forceinline__ uint4 pack(const float* f) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(f[2 * i], f[2 * i + 1]);
      words[i] = reinterpret_cast<const uint32_t&>(two);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// A warp per row. Lane i first holds what belongs to slot i, then what comes i-th in the sum.
template <class T>
__global__ void __launch_bounds__(256)
    combine_kernel(Permutation p, const int32_t* __restrict__ ids,
                   const float* __restrict__ weights, const uint4* __restrict__ y,
                   uint4* __restrict__ out, int64_t words, bool residual) {
  const int lane = threadIdx.x % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (r * p.top_k >= p.pairs) return;
  int32_t id = 0, place = 0;
  float weight = 0;
  if (lane < p.top_k) {
    id = ids[r * p.top_k + lane];
    place = p.place[r * p.top_k + lane];
    weight = weights[r * p.top_k + lane];
  }
  int rank = 0;
  for (int k = 0; k < p.top_k; ++k) {
    const int32_t other = __shfl_sync(kAllLanes, id, k);
    rank += other < id || (other == id && k < lane);
  }
  int from = 0;
  for (int k = 0; k < p.top_k; ++k)
    if (__shfl_sync(kAllLanes, rank, k) == lane) from = k;
  place = __shfl_sync(kAllLanes, place, from);
  weight = __shfl_sync(kAllLanes, weight, from);

  for (int64_t c = lane; c - lane < words; c += 32) {
    const bool inside = c < words;
    float sum[T::kCount] = {};
    if (residual && inside) T::unpack(out[r * words + c], sum);
#pragma unroll 8
    for (int k = 0; k < p.top_k; ++k) {
      const int64_t at = __shfl_sync(kAllLanes, place, k) * words + c;
      const float w = __shfl_sync(kAllLanes, weight, k);
      float term[T::kCount];
      T::unpack(inside ? __ldg(&y[at]) : uint4{}, term);
#pragma unroll
      for (int i = 0; i < T::kCount; ++i) sum[i] = fmaf(w, term[i], sum[i]);
    }
    if (inside) out[r * words + c] = T::pack(sum);
  }
}

unsigned blocks_of(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace

int64_t pairs_per_chunk(int64_t pairs) {
  const int64_t even = (pairs + kMostChunks - 1) / kMostChunks;
  return std::max<int64_t>(256, (even + 31) / 32 * 32);
}

int64_t chunks(int64_t pairs) {
  const int64_t per_chunk = pairs_per_chunk(pairs);
  return (pairs + per_chunk - 1) / per_chunk;
}

cudaError_t make_permutation(const Permutation& p, const int32_t* ids, cudaStream_t stream) {
  const int64_t per_chunk = pairs_per_chunk(p.pairs), num_chunks = chunks(p.pairs);
  const unsigned blocks = blocks_of(num_chunks, kWarpsPerBlock);
  const size_t shared = sizeof(int32_t) * kWarpsPerBlock * static_cast<size_t>(p.num_experts);
  int padded = 1;
  while (padded < p.num_experts) padded *= 2;
  count_kernel<<<blocks, kWarpsPerBlock * 32, shared, stream>>>(p, ids, per_chunk, num_chunks);
  scan_kernel<<<1, kScanThreads, 0, stream>>>(p, num_chunks, padded);
  place_kernel<<<blocks, kWarpsPerBlock * 32, shared, stream>>>(p, ids, per_chunk, num_chunks);
  return cudaGetLastError();
}

cudaError_t combine_rows(const Permutation& p, const int32_t* ids, const float* weights,
                         const void* y, void* out, int64_t hidden, bool f32, bool residual,
                         cudaStream_t stream) {
  const unsigned blocks = blocks_of(p.pairs / p.top_k, 8);
  const auto* from = static_cast<const uint4*>(y);
  auto* to = static_cast<uint4*>(out);
  if (f32) {
    combine_kernel<Floats>
        <<<blocks, 256, 0, stream>>>(p, ids, weights, from, to, hidden / 4, residual);
  } else {
    combine_kernel<Bfloats>
        <<<blocks, 256, 0, stream>>>(p, ids, weights, from, to, hidden / 8, residual);
  }
  return cudaGetLastError();
}

}  // namespace longhaul::moe::cuda
