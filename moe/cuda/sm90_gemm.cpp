#include "moe/cuda/sm90_gemm.h"

#include <cuda.h>
#include <cudaTypedefs.h>

#include <array>
#include <atomic>

#include "moe/cuda/sm90_params.h"
#include "runtime/core/cuda/check.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::moe::cuda {
namespace {

// The driver's function, found through the runtime so that nothing links against libcuda.
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    LH_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                             cudaEnableDefault, &found));
    LH_CHECK(found == cudaDriverEntryPointSuccess && function != nullptr,
             "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encode;
}

// [matrices, rows, depth] bf16, read in boxes of 64 rows x 64 elements; what lies outside reads as
// zeros.
CUtensorMap tensor_map(const void* base, int64_t matrices, int64_t rows, int64_t depth) {
  CUtensorMap map{};
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(matrices)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(depth) * 2,
                                 static_cast<cuuint64_t>(depth * rows) * 2};
  const cuuint32_t box[3] = {sm90::kDepth, sm90::kBlockRows, 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base), dims, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LH_CHECK(result == CUDA_SUCCESS, "tensor map of {} x {} x {} at {}: {}", matrices, rows, depth,
           base, static_cast<int>(result));
  return map;
}

// Blocks that the calling thread's device runs at one time, asked once per device.
int resident_blocks(Product product) {
  constexpr int kMostDevices = 64;
  static std::array<std::array<std::atomic<int>, 2>, kMostDevices> known{};
  const int device = ::longhaul::cuda::current_device().ordinal;
  LH_CHECK(device < kMostDevices, "device {}", device);
  std::atomic<int>& blocks =
      known[static_cast<size_t>(device)][product == Product::gate_up ? 0 : 1];
  if (blocks.load() == 0) {
    int clusters = 0;
    LH_CUDA(sm90::count_clusters(product, &clusters));
    LH_CHECK(clusters > 0, "device {} runs no cluster of {} blocks", device, sm90::kCluster);
    blocks.store(clusters * sm90::kCluster);
  }
  return blocks.load();
}

}  // namespace

void sm90_gemm(const GroupedGemm& g, Product product, cudaStream_t stream) {
  const int64_t weight_rows = product == Product::gate_up ? 2 * g.columns : g.columns;
  sm90::Params params{};
  if (product == Product::gate_up) {
    LH_CHECK(g.row != nullptr);
    params.row = g.row;
    params.a_rows = g.a;
  } else {
    LH_CHECK(g.row == nullptr);
    params.a = tensor_map(g.a, 1, g.a_rows, g.depth);
  }
  params.weights = tensor_map(g.weights, g.num_experts, weight_rows, g.depth);
  params.out_map = tensor_map(g.out, 1, g.places, g.columns);
  params.tiles = g.tiles;
  params.num_tiles = g.num_tiles;
  params.out = g.out;
  params.depth = static_cast<int32_t>(g.depth);
  params.columns = static_cast<int32_t>(g.columns);
  params.steps = static_cast<int32_t>((g.depth + sm90::kDepth - 1) / sm90::kDepth);
  const int64_t width = product == Product::gate_up ? sm90::kColumns<Product::gate_up>
                                                    : sm90::kColumns<Product::down>;
  const int64_t most = g.most_tiles * ((g.columns + width - 1) / width);
  LH_CHECK(most < (int64_t{1} << 31), "{} row tiles of {} columns; use chunks of fewer rows",
           g.most_tiles, g.columns);
  LH_CUDA(sm90::launch(params, product, resident_blocks(product), stream));
}

}  // namespace longhaul::moe::cuda
