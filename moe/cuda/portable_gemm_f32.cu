#include "moe/cuda/portable_tile.cuh"

namespace longhaul::moe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kDepth = 16;
constexpr int kStride = kTileRows + 4;  // keeps 16-byte alignment, spreads banks

// A thread has rows 4 y + (0..3) and 64 more, weight rows 4 x + (0..3) and 64 more: where the
// product is gated, gate and up of the same four columns.
template <Product kProduct>
__global__ void __launch_bounds__(kThreads) gemm_f32_kernel(GroupedGemm g) {
  using Cols = Columns<kProduct>;
  __shared__ __align__(16) float a_tile[2][kDepth][kStride], b_tile[2][kDepth][kStride];
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int load_row = threadIdx.x / 4, load_k = threadIdx.x % 4 * 4;
  const auto* a = static_cast<const float*>(g.a);
  auto* out = static_cast<float*>(g.out);

  for_each_tile<kProduct>(g, [&](const RowTile& tile, int64_t column) {
    const float* a_from[2];
    const float* b_from[2];
    const auto* weights = static_cast<const float*>(g.weights) +
                          tile.expert * g.columns * (Cols::kGated ? 2 : 1) * g.depth;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = load_row + 64 * i;
      const int64_t place = tile.place + min(r, tile.rows - 1);
      a_from[i] = a + (g.row != nullptr ? g.row[place] : place) * g.depth;
      const int64_t weight = Cols::weight_row(column, r, g.columns);
      b_from[i] = weights + (weight < 0 ? 0 : weight) * g.depth;
    }
    float4 a_next[2], b_next[2];
    const auto load = [&](int64_t k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool inside = k + load_k < g.depth;
        a_next[i] = inside ? *reinterpret_cast<const float4*>(a_from[i] + k + load_k) : float4{};
        b_next[i] = inside ? *reinterpret_cast<const float4*>(b_from[i] + k + load_k) : float4{};
      }
    };
    const auto store = [&](int stage) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = load_row + 64 * i;
        const float av[4] = {a_next[i].x, a_next[i].y, a_next[i].z, a_next[i].w};
        const float bv[4] = {b_next[i].x, b_next[i].y, b_next[i].z, b_next[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          a_tile[stage][load_k + j][r] = av[j];
          b_tile[stage][load_k + j][r] = bv[j];
        }
      }
    };

    float sum[8][8] = {};
    load(0);
    __syncthreads();  // the tile before has been read
    store(0);
    int stage = 0;
    for (int64_t k = 0; k < g.depth; k += kDepth) {
      __syncthreads();
      if (k + kDepth < g.depth) load(k + kDepth);
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        float av[8], bv[8];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          *reinterpret_cast<float4*>(av + 4 * h) =
              *reinterpret_cast<const float4*>(&a_tile[stage][d][64 * h + 4 * y]);
          *reinterpret_cast<float4*>(bv + 4 * h) =
              *reinterpret_cast<const float4*>(&b_tile[stage][d][64 * h + 4 * x]);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(av[i], bv[j], sum[i][j]);
      }
      stage ^= 1;
      if (k + kDepth < g.depth) store(stage);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int r = 4 * y + i % 4 + 64 * (i / 4);
      if (r >= tile.rows) continue;
      float* const to = out + (tile.place + int64_t{r}) * g.columns;
#pragma unroll
      for (int h = 0; h < (Cols::kGated ? 1 : 2); ++h) {
        const int64_t c = column + 4 * x + 64 * h;
        float4 v =
            make_float4(sum[i][4 * h], sum[i][4 * h + 1], sum[i][4 * h + 2], sum[i][4 * h + 3]);
        if (Cols::kGated)
          v = make_float4(gated(v.x, sum[i][4]), gated(v.y, sum[i][5]), gated(v.z, sum[i][6]),
                          gated(v.w, sum[i][7]));
        if (c < g.columns) *reinterpret_cast<float4*>(to + c) = v;
      }
    }
  });
}

}  // namespace

cudaError_t portable_gemm_f32(const GroupedGemm& g, Product product, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(2 * g.multiprocessors);
  if (product == Product::gate_up) {
    gemm_f32_kernel<Product::gate_up><<<blocks, kThreads, 0, stream>>>(g);
  } else {
    gemm_f32_kernel<Product::down><<<blocks, kThreads, 0, stream>>>(g);
  }
  return cudaGetLastError();
}

}  // namespace longhaul::moe::cuda
