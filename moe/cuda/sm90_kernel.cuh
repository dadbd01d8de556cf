#pragma once
// The sm_90a grouped product. One persistent block on each multiprocessor, two blocks a cluster.
// Warpgroup 0 feeds shared memory through TMA, warpgroups 1 and 2 multiply.
// docs/performance_gpu_moe.md tells why it is built so.

#include "moe/cuda/sm90_epilogue.cuh"
#include "moe/cuda/sm90_params.h"
#include "runtime/core/cuda/cluster.cuh"
#include "runtime/core/cuda/ptx.cuh"
#include "runtime/core/cuda/wgmma.cuh"

namespace longhaul::moe::cuda::sm90 {

namespace ptx = ::longhaul::cuda::ptx;
namespace wgmma = ::longhaul::cuda::wgmma;

// Position in the ring of stages; parity flips each time round.
struct Ring {
  uint32_t stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct Smem {
  uint32_t base;
  __device__ uint32_t a(uint32_t stage) const { return base + stage * kABytes; }
  __device__ uint32_t b(uint32_t stage) const { return base + kBOffset + stage * kBBytes; }
  __device__ uint32_t full(uint32_t stage) const { return base + kBarrierOffset + 16 * stage; }
  __device__ uint32_t empty(uint32_t stage) const { return full(stage) + 8; }
};

// What the producer tells the consumers about a tile. It stands in the slot of number tile %
// kStages and is published with the tile's first step; since a tile has at least one step, the
// slot's reader has given that step back before the slot is written again.
struct alignas(16) Slot {
  int32_t place;   // first row of the output
  int32_t rows;    // 0: no more work
  int32_t column;  // first column of this block
  int32_t unused;
};

template <Product kProduct>
__device__ __forceinline__ void produce(const Params& params, Smem smem, Slot* slots) {
  constexpr int kWidth = kColumns<kProduct>;
  const uint32_t rank = ptx::cluster_rank();
  // Less than 2^31 tiles in all: checked by the host.
  const int across = (params.columns + kCluster * kWidth - 1) / (kCluster * kWidth);
  const int total = *params.num_tiles * across;
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  Ring ring;
  uint32_t slot = 0;
  for (int i = static_cast<int>(blockIdx.x) / kCluster; i < total; i += clusters) {
    // Down the group's row tiles first, for they share weights.
    const RowTile& any = params.tiles[i / across];
    const int size = any.group_size;
    const int inside = i - any.group_first * across;
    const RowTile& tile = params.tiles[any.group_first + inside % size];
    const int expert = tile.expert, place = tile.place, rows = tile.rows;
    const int column = (inside / size * kCluster + static_cast<int>(rank)) * kWidth;
    const int second = kProduct == Product::gate_up ? params.columns + column : column + kBlockRows;
    const int row_blocks = (rows + kBlockRows - 1) / kBlockRows;
    const uint32_t bytes = static_cast<uint32_t>(row_blocks) * kBoxBytes + kBBytes;
    for (int step = 0; step < params.steps; ++step) {
      ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
      if (step == 0) slots[slot] = Slot{place, rows, column, 0};
      const uint32_t full = smem.full(ring.stage);
      ptx::mbarrier_arrive_expect(full, bytes);
      const int k = step * kDepth;
      const uint32_t b = smem.b(ring.stage);
      ptx::tma_load(b, &params.weights, full, k, column, expert);
      ptx::tma_load(b + kBoxBytes, &params.weights, full, k, second, expert);
      for (int block = static_cast<int>(rank); block < row_blocks; block += kCluster) {
        ptx::tma_load_multicast(smem.a(ring.stage) + block * kBoxBytes, &params.a, full,
                                (1 << kCluster) - 1, k, place + block * kBlockRows, 0);
      }
      ring.advance();
    }
    slot = (slot + 1) % kStages;
  }
  ptx::mbarrier_wait(smem.empty(ring.stage), ring.parity ^ 1);
  slots[slot] = Slot{};
  ptx::mbarrier_arrive(smem.full(ring.stage));
}

// One step of kBlocks row blocks: four wgmma of depth 16 each.
template <int kBlocks, int kAccumulate>
__device__ __forceinline__ void multiply(float (&low)[64], float (&high)[64], uint64_t a,
                                         uint64_t b) {
  constexpr uint64_t kHigh = kConsumers * kBoxBytes / 16;  // the warpgroup's second row block
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    if (k == 0) {
      wgmma::Mma<kWeightRows>::ss<kAccumulate>(low, a, b);
      if (kBlocks == 2) wgmma::Mma<kWeightRows>::ss<kAccumulate>(high, a + kHigh, b);
    } else {
      wgmma::Mma<kWeightRows>::ss<1>(low, a + 2 * k, b + 2 * k);
      if (kBlocks == 2) wgmma::Mma<kWeightRows>::ss<1>(high, a + kHigh + 2 * k, b + 2 * k);
    }
  }
  wgmma::commit();
}

// Gives a stage back to the producers of both blocks, which both write into it.
__device__ __forceinline__ void release(Smem smem, uint32_t stage) {
  if (threadIdx.x % 32 < kCluster) ptx::mbarrier_arrive_at(smem.empty(stage), threadIdx.x % 32);
}

// All steps of a tile; the first is known to have arrived.
template <int kBlocks>
__device__ __forceinline__ void accumulate(float (&low)[64], float (&high)[64], Smem smem,
                                           Ring& ring, int steps, int group) {
  const auto a = [&] {
    return wgmma::descriptor_k_major(smem.a(ring.stage) + static_cast<uint32_t>(group) * kBoxBytes);
  };
  const auto b = [&] { return wgmma::descriptor_k_major(smem.b(ring.stage)); };
  multiply<kBlocks, 0>(low, high, a(), b());
  uint32_t before = ring.stage;
  ring.advance();
  for (int step = 1; step < steps; ++step) {
    ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
    multiply<kBlocks, 1>(low, high, a(), b());
    wgmma::wait<1>();
    release(smem, before);
    before = ring.stage;
    ring.advance();
  }
  wgmma::wait<0>();
  release(smem, before);
  wgmma::pin(low);
  if (kBlocks == 2) wgmma::pin(high);
}

template <Product kProduct>
__device__ __forceinline__ void consume(const Params& params, Smem smem, const Slot* slots,
                                        int group) {
  Ring ring;
  uint32_t number = 0;
  float low[64], high[64];
  while (true) {
    ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
    const Slot slot = slots[number];
    number = (number + 1) % kStages;
    if (slot.rows == 0) break;
    const Output out{static_cast<__nv_bfloat16*>(params.out), params.columns, slot.column};
    const int low_row = group * kBlockRows, high_row = low_row + kConsumers * kBlockRows;
    if (slot.rows > high_row) {
      accumulate<2>(low, high, smem, ring, params.steps, group);
      write_rows<kProduct>(out, low, slot.place + low_row, slot.rows - low_row);
      write_rows<kProduct>(out, high, slot.place + high_row, slot.rows - high_row);
    } else if (slot.rows > low_row) {
      accumulate<1>(low, high, smem, ring, params.steps, group);
      write_rows<kProduct>(out, low, slot.place + low_row, slot.rows - low_row);
    } else {
      for (int step = 0; step < params.steps; ++step) {
        ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
        release(smem, ring.stage);
        ring.advance();
      }
    }
  }
}

template <Product kProduct>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Smem smem{ptx::shared_address(shared)};
  Slot* const slots = reinterpret_cast<Slot*>(shared + kSlotOffset);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.a);
    ptx::prefetch_tensor_map(&params.weights);
    for (uint32_t i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(smem.full(i), 1);
      ptx::mbarrier_init(smem.empty(i), kCluster * kConsumers * 4);  // one arrival per warp
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::cluster_sync();  // no block may write to one whose barriers are not ready

  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 4) {
    ptx::registers_lower<kProducerRegs>();
    if (threadIdx.x == 0) produce<kProduct>(params, smem, slots);
    __syncwarp();
  } else {
    ptx::registers_raise<kConsumerRegs>();
    consume<kProduct>(params, smem, slots, warp / 4 - 1);
  }
  ptx::cluster_sync();  // nor may one end while the other still writes to it
}

}  // namespace longhaul::moe::cuda::sm90
