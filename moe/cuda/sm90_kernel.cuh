#pragma once
// The sm_90a grouped product. One persistent block on each multiprocessor, two blocks a cluster.
// Warpgroup 0 feeds shared memory, warpgroups 1 and 2 multiply.
// docs/performance_gpu_moe.md tells why it is built so.

#include "moe/cuda/sm90_epilogue.cuh"
#include "moe/cuda/sm90_producer.cuh"
#include "runtime/core/cuda/wgmma.cuh"

namespace longhaul::moe::cuda::sm90 {

namespace wgmma = ::longhaul::cuda::wgmma;

// One step: four wgmma of depth 16.
template <int kAccumulate>
__device__ __forceinline__ void multiply(float (&d)[kWeightRows / 2], uint64_t a, uint64_t b) {
  wgmma::fence();
  wgmma::Mma<kWeightRows>::template ss<kAccumulate>(d, a, b);
#pragma unroll
  for (int k = 1; k < kDepth / 16; ++k)
    wgmma::Mma<kWeightRows>::template ss<1>(d, a + 2 * k, b + 2 * k);
  wgmma::commit();
}

// Gives a stage back to the producers of both blocks, which both write into it.
__device__ __forceinline__ void release(Smem smem, uint32_t stage) {
  if (threadIdx.x % 32 < kCluster) ptx::mbarrier_arrive_at(smem.empty(stage), threadIdx.x % 32);
}

// All steps of a tile; the first is known to have arrived. kGather: the rows were written by
// ordinary copies, which the tensor cores see only past a fence.
template <bool kGather>
__device__ __forceinline__ void accumulate(float (&d)[kWeightRows / 2], Smem smem, Ring& ring,
                                           int steps, int group) {
  const auto a = [&] {
    return wgmma::descriptor_k_major(smem.a(ring.stage) + static_cast<uint32_t>(group) * kBoxBytes);
  };
  const auto b = [&] { return wgmma::descriptor_k_major(smem.b(ring.stage)); };
  if (kGather) ptx::fence_async_proxy();
  multiply<0>(d, a(), b());
  uint32_t before = ring.stage;
  ring.advance();
  for (int step = 1; step < steps; ++step) {
    ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
    if (kGather) ptx::fence_async_proxy();
    multiply<1>(d, a(), b());
    wgmma::wait<1>();
    release(smem, before);
    before = ring.stage;
    ring.advance();
  }
  wgmma::wait<0>();
  release(smem, before);
  wgmma::pin(d);
}

template <Product kProduct>
__device__ __forceinline__ void consume(const Params& params, Smem smem, const Slot* slots,
                                        int group) {
  const int first = (static_cast<int>(ptx::cluster_rank()) + kCluster * group) * kBlockRows;
  Ring ring;
  uint32_t number = 0;
  float d[kWeightRows / 2];
  while (true) {
    ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
    const Slot slot = slots[number];
    number = (number + 1) % kStages;
    if (slot.rows == 0) break;
    if (slot.rows > first) {
      accumulate<kGathered<kProduct>>(d, smem, ring, params.steps, group);
      const int place = slot.place + first, rows = slot.rows - first;
      if (rows >= kBlockRows) {
        store_rows<kProduct>(params, d, smem.out(group), group, place, slot.column);
      } else {
        const Output out{static_cast<__nv_bfloat16*>(params.out), params.columns, slot.column};
        write_rows<kProduct>(out, d, place, rows);
      }
    } else {
      for (int step = 0; step < params.steps; ++step) {
        ptx::mbarrier_wait(smem.full(ring.stage), ring.parity);
        release(smem, ring.stage);
        ring.advance();
      }
    }
  }
  if (threadIdx.x % 128 == 0) ptx::tma_store_wait();
}

template <Product kProduct>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Smem smem{ptx::shared_address(shared)};
  Slot* const slots = reinterpret_cast<Slot*>(shared + kSlotOffset);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.weights);
    if (!kGathered<kProduct>) ptx::prefetch_tensor_map(&params.a);
    for (uint32_t i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(smem.full(i), kGathered<kProduct> ? 1 + 128 : 1);
      ptx::mbarrier_init(smem.empty(i), kCluster * kConsumers * 4);  // one arrival per warp
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::cluster_sync();  // no block may write to one whose barriers are not ready

  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 4) {
    ptx::registers_lower<kProducerRegs>();
    if (kGathered<kProduct>) {
      produce_gathered<kProduct>(params, smem, slots);
    } else if (threadIdx.x == 0) {
      produce_in_order<kProduct>(params, smem, slots);
    }
    __syncwarp();
  } else {
    ptx::registers_raise<kConsumerRegs>();
    consume<kProduct>(params, smem, slots, warp / 4 - 1);
  }
  ptx::cluster_sync();  // nor may one end while the other still writes to it
}

}  // namespace longhaul::moe::cuda::sm90
