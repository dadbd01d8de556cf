#pragma once
// From registers through shared memory to a tensor: stmatrix and the copy engine's stores (PTX ISA
// 8.0, compute capability 9.0). Addresses as in ptx.cuh.

#include <cuda.h>

#include <cstdint>

namespace longhaul::cuda::ptx {

// Four 8x8 matrices of 16-bit elements, the inverse of ldmatrix_x4: lane i gives the address of row
// i % 8 of matrix i / 8.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// One box from shared memory to a 3-D tensor; what lies outside the tensor is not written. Before
// it: fence_async_proxy() in the threads that wrote the box, and a barrier.
__device__ __forceinline__ void tma_store(const CUtensorMap* map, uint32_t from, int c0, int c1,
                                          int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
          reinterpret_cast<uint64_t>(map)),
      "r"(from), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// Ends a group of this thread's stores.
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until at most kPending groups have not yet read their shared memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Until all of this thread's stores are done.
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace longhaul::cuda::ptx
