#pragma once
// The sm_90a attention kernel. One persistent thread block per multiprocessor: warpgroup 0 feeds
// shared memory through TMA, the others multiply. docs/performance_gpu.md tells why it is built so.

#include "attention/backends/cuda/attention_sm90_consumer.cuh"

namespace longhaul::attention::cuda::sm90 {

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    attention_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Smem<C> smem{ptx::shared_address(shared)};
  Slot* const slots = reinterpret_cast<Slot*>(shared + C::kSlotOffset);

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.q);
    ptx::prefetch_tensor_map(&params.k);
    ptx::prefetch_tensor_map(&params.v);
    for (int i = 0; i < C::kQStages + 2 * C::kStages; ++i) {
      ptx::mbarrier_init(smem.q_full(i), 1);
      ptx::mbarrier_init(smem.q_empty(i), 4 * C::kWarpgroups);  // one arrival per consumer warp
    }
    ptx::fence_mbarrier_init();
    *reinterpret_cast<uint32_t*>(shared + C::kZeroOffset) = 0;
  }
  if constexpr (C::kGeneral) {
    ptx::let_dependents_start();
    // Rows of Q that no copy reaches, where the heads of a group do not fill the tile: what lies
    // there must not be NaN, which would send their warp the slow way.
    if (params.heads_per_tile > 1) {
      for (int at = threadIdx.x; at < C::kQStages * C::kQBytes / 16; at += C::kThreads) {
        ptx::store_shared_zero16(smem.base + C::kQOffset + at * 16);
      }
      ptx::fence_async_proxy();
    }
  }
  __syncthreads();

  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 4) {
    ptx::registers_lower<C::kProducerRegs>();
    if constexpr (C::kGeneral) {
      if (warp == 0) feed<C>(params, smem, slots);
    } else {
      if (threadIdx.x == 0) produce<C>(params, smem, slots);
    }
  } else {
    ptx::registers_raise<C::kConsumerRegs>();
    consume<C>(params, smem, slots, warp / 4 - 1);
  }
}

}  // namespace longhaul::attention::cuda::sm90
