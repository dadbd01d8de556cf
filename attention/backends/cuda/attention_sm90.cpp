#include "attention/backends/cuda/attention_sm90.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "attention/backends/cuda/attention_sm90_launch.h"
#include "runtime/core/check.h"

namespace longhaul::attention::sm90 {
namespace {

constexpr int64_t kL2Budget = int64_t{32} << 20;  // keys and values worked on at one time
constexpr double kLog2E = 1.4426950408889634;

void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    fail(ExitCode::resource, "attention sm_90a: {} failed: {}", what, cudaGetErrorString(error));
  }
}

// The driver's function, found through the runtime so that nothing links against libcuda.
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &found),
               "looking up cuTensorMapEncodeTiled");
    LH_CHECK(found == cudaDriverEntryPointSuccess && function != nullptr,
             "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encode;
}

// [rows, heads, head_dim] bf16 read in boxes of 64 columns x 1 head x box_rows; rows past the end
// read as zeros.
CUtensorMap tensor_map(const void* base, int64_t rows, int heads, int head_dim, int64_t row_stride,
                       int box_rows) {
  CUtensorMap map{};
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(heads),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(head_dim) * 2,
                                 static_cast<cuuint64_t>(row_stride) * 2};
  const cuuint32_t box[3] = {64, 1, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base), dims, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LH_CHECK(result == CUDA_SUCCESS, "tensor map of {} rows, {} heads x {}, row stride {}, at {}: {}",
           rows, heads, head_dim, row_stride, base, static_cast<int>(result));
  return map;
}

// Heads that should run through all tiles together: as many groups as keep their keys in the L2.
int heads_per_section(const Shape& shape, int64_t max_kv_length) {
  const int64_t bytes_per_kv_head =
      std::max<int64_t>(1, max_kv_length * 2 * (shape.head_dim + shape.head_dim_v));
  const int64_t kv_heads =
      std::clamp<int64_t>(kL2Budget / bytes_per_kv_head, 1, shape.num_kv_heads);
  return static_cast<int>(kv_heads) * (shape.num_heads / shape.num_kv_heads);
}

int multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "counting multiprocessors");
  return count;
}

void check_args(const Shape& shape, const Args& args) {
  std::string why_not;
  LH_CHECK(supported(shape, &why_not), "{}", why_not);
  LH_CHECK(args.scale > 0, "scale {}", args.scale);
  LH_CHECK(args.num_tiles * shape.num_heads < (int64_t{1} << 31), "{} tiles x {} heads",
           args.num_tiles, shape.num_heads);
  LH_CHECK(args.workspace != nullptr && args.out != nullptr && args.lse != nullptr);
  LH_CHECK(
      args.out_stride >= int64_t{shape.num_heads} * shape.head_dim_v && args.out_stride % 8 == 0,
      "out stride {}", args.out_stride);
}

template <class C>
void run(const Shape& shape, const Args& args, cudaStream_t stream) {
  LH_CHECK(C::kBlockM == queries_per_tile(shape), "tiles of {} queries for a kernel of {}",
           queries_per_tile(shape), C::kBlockM);
  Params params{};
  params.q = tensor_map(args.q, args.q_rows, shape.num_heads, C::kD, args.q_stride, C::kBlockM);
  params.k = tensor_map(args.k, args.kv_rows, shape.num_kv_heads, C::kD, args.k_stride, C::kBlockN);
  params.v =
      tensor_map(args.v, args.kv_rows, shape.num_kv_heads, C::kDv, args.v_stride, C::kBlockN);
  params.counters = static_cast<Counters*>(args.workspace);
  params.tiles =
      reinterpret_cast<const Tile*>(static_cast<char*>(args.workspace) + kWorkspaceHeader);
  params.k_data = args.k;
  params.k_stride = args.k_stride;
  params.out = args.out;
  params.lse = args.lse;
  params.out_stride = args.out_stride;
  params.num_tiles = static_cast<uint32_t>(args.num_tiles);
  params.num_heads = static_cast<uint32_t>(shape.num_heads);
  params.group = static_cast<uint32_t>(shape.num_heads / shape.num_kv_heads);
  params.heads_per_section = static_cast<uint32_t>(heads_per_section(shape, args.max_kv_length));
  params.scale_log2 = static_cast<float>(args.scale * kLog2E);
  params.out_f32 = args.out_type == OutType::f32;
  const int sms = args.num_sms > 0 ? args.num_sms : multiprocessors();
  const int64_t work = args.num_tiles * shape.num_heads;
  check_cuda(launch<C>(params, static_cast<int>(std::min<int64_t>(sms, work)), stream),
             "launching the kernel");
}

}  // namespace

void forward(const Shape& shape, const Args& args, void* stream) {
  check_args(shape, args);
  if (args.num_tiles == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  switch (shape.head_dim) {
    case 64:
      return run<ConfigD64>(shape, args, s);
    case 128:
      return run<ConfigD128>(shape, args, s);
    case 192:
      return run<ConfigD192>(shape, args, s);
    default:
      return run<ConfigD256>(shape, args, s);
  }
}

}  // namespace longhaul::attention::sm90
