#include "moe/cuda/portable_tile.cuh"
#include "runtime/core/cuda/ptx.cuh"

namespace longhaul::moe::cuda {
namespace {

namespace ptx = ::longhaul::cuda::ptx;

constexpr int kThreads = 256;  // 8 warps: 4 down the rows x 2 across the weights
constexpr int kDepth = 32;
constexpr int kStages = 3;
constexpr int kRowBytes = 80;  // 64 of data: eight rows fall in different banks
constexpr int kOperandBytes = 128 * kRowBytes;
constexpr int kSharedBytes = kStages * 2 * kOperandBytes;

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A warp has 32 rows and 64 weight rows; where the product is gated, 32 gate rows and their up
// rows.
template <Product kProduct>
__global__ void __launch_bounds__(kThreads, 2) gemm_bf16_kernel(GroupedGemm g) {
  using Cols = Columns<kProduct>;
  extern __shared__ __align__(16) unsigned char shared[];
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp % 4 * 32, warp_weight = warp / 4;
  const int load_row = threadIdx.x / 4, load_k = threadIdx.x % 4 * 8;
  const auto* a = static_cast<const __nv_bfloat16*>(g.a);
  auto* out = static_cast<__nv_bfloat16*>(g.out);
  // Weight row, in the tile, of the n-th group of 16 of this warp.
  const auto group_row = [&](int n) {
    return Cols::kGated ? n / 2 * 64 + warp_weight * 32 + n % 2 * 16 : warp_weight * 64 + n * 16;
  };

  for_each_tile<kProduct>(g, [&](const RowTile& tile, int64_t column) {
    const __nv_bfloat16* a_from[2];
    const __nv_bfloat16* b_from[2];
    const auto* weights = static_cast<const __nv_bfloat16*>(g.weights) +
                          tile.expert * g.columns * (Cols::kGated ? 2 : 1) * g.depth;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = load_row + 64 * i;
      const int64_t place = tile.place + min(r, tile.rows - 1);
      a_from[i] = a + (g.row != nullptr ? g.row[place] : place) * g.depth + load_k;
      const int64_t weight = Cols::weight_row(column, r, g.columns);
      b_from[i] = weights + (weight < 0 ? 0 : weight) * g.depth + load_k;
    }
    const int64_t steps = (g.depth + kDepth - 1) / kDepth;
    const auto load = [&](int64_t step) {
      if (step < steps) {
        const uint32_t to = base + static_cast<uint32_t>(step % kStages) * 2 * kOperandBytes +
                            load_row * kRowBytes + load_k * 2;
        const bool inside = step * kDepth + load_k < g.depth;
        const int64_t k = inside ? step * kDepth : 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          copy16(to + i * 64 * kRowBytes, a_from[i] + k, inside);
          copy16(to + kOperandBytes + i * 64 * kRowBytes, b_from[i] + k, inside);
        }
      }
      copy_commit();
    };

    float sum[2][8][4] = {};
    __syncthreads();  // the tile before has been read
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load(s);
    for (int64_t step = 0; step < steps; ++step) {
      copy_wait<kStages - 2>();
      __syncthreads();
      load(step + kStages - 1);
      const uint32_t a_at = base + static_cast<uint32_t>(step % kStages) * 2 * kOperandBytes;
      const uint32_t b_at = a_at + kOperandBytes;
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t av[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m)
          ptx::ldmatrix_x4(
              av[m], a_at + (warp_row + 16 * m + lane % 16) * kRowBytes + (k + lane / 16 * 8) * 2);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          uint32_t bv[4];
          ptx::ldmatrix_x4(bv, b_at + (group_row(n) + lane / 16 * 8 + lane % 8) * kRowBytes +
                                   (k + lane / 8 % 2 * 8) * 2);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            ptx::mma_m16n8k16(sum[m][2 * n], av[m], bv[0], bv[1]);
            ptx::mma_m16n8k16(sum[m][2 * n + 1], av[m], bv[2], bv[3]);
          }
        }
      }
    }
    copy_wait<0>();

#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = warp_row + 16 * m + 8 * half + lane / 4;
        if (r >= tile.rows) continue;
        __nv_bfloat16* const to = out + (tile.place + int64_t{r}) * g.columns;
#pragma unroll
        for (int n = 0; n < (Cols::kGated ? 4 : 8); ++n) {
          float low = sum[m][n][2 * half], high = sum[m][n][2 * half + 1];
          if (Cols::kGated) {
            low = gated(low, sum[m][n + 4][2 * half]);
            high = gated(high, sum[m][n + 4][2 * half + 1]);
          }
          const int64_t c = column + group_row(n / 2) + n % 2 * 8 + lane % 4 * 2;
          if (c < g.columns) *reinterpret_cast<uint32_t*>(to + c) = ptx::pack_bf16(low, high);
        }
      }
  });
}

template <Product kProduct>
cudaError_t launch(const GroupedGemm& g, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(
      gemm_bf16_kernel<kProduct>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  gemm_bf16_kernel<kProduct>
      <<<static_cast<unsigned>(2 * g.multiprocessors), kThreads, kSharedBytes, stream>>>(g);
  return cudaGetLastError();
}

}  // namespace

cudaError_t portable_gemm_bf16(const GroupedGemm& g, Product product, cudaStream_t stream) {
  return product == Product::gate_up ? launch<Product::gate_up>(g, stream)
                                     : launch<Product::down>(g, stream);
}

}  // namespace longhaul::moe::cuda
