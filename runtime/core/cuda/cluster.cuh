#pragma once
// Thread blocks that share data: the PTX of clusters (compute capability 9.0). Shared-memory
// addresses are those of ptx.cuh; an address means the same place in every block of the cluster.

#include <cuda.h>

#include <cstdint>

namespace longhaul::cuda::ptx {

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks of the cluster; earlier shared-memory writes are seen by all.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Arrives on the barrier at address `bar` of block `rank`.
__device__ __forceinline__ void mbarrier_arrive_at(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(bar),
      "r"(rank)
      : "memory");
}

// ptx::tma_load() into the same place of every block in `blocks` (one bit each), counted on the
// barrier of each.
__device__ __forceinline__ void tma_load_multicast(uint32_t dst, const CUtensorMap* map,
                                                   uint32_t bar, uint16_t blocks, int c0, int c1,
                                                   int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(dst),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(bar), "h"(blocks), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

}  // namespace longhaul::cuda::ptx
