#include "attention/backends/cuda/attention_sm90.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "attention/backends/cuda/attention_sm90_launch.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::attention::cuda::sm90 {
namespace {

constexpr int64_t kL2Budget = int64_t{32} << 20;  // keys and values worked on at one time
constexpr double kLog2E = 1.4426950408889634;

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

// [rows, heads, head_dim] bf16 read in boxes of 64 columns x box_heads x box_rows; rows past the
// end read as zeros.
CUtensorMap tensor_map(const void* base, int64_t rows, int heads, int head_dim, int64_t row_stride,
                       int box_heads, int box_rows) {
  CUtensorMap map{};
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(heads),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(head_dim) * 2,
                                 static_cast<cuuint64_t>(row_stride) * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_heads),
                             static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base), dims, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LH_CHECK(result == CUDA_SUCCESS, "tensor map of {} rows, {} heads x {}, row stride {}, at {}: {}",
           rows, heads, head_dim, row_stride, base, static_cast<int>(result));
  return map;
}

// Units of heads that should run through all tiles together: as many as keep their keys in the L2.
int units_per_section(const Plan& plan, int units_per_kv) {
  const Shape& shape = plan.shape;
  const int64_t bytes_per_kv_head =
      std::max<int64_t>(1, plan.max_kv_length * 2 * (shape.head_dim + shape.head_dim_v));
  const int64_t kv_heads =
      std::clamp<int64_t>(kL2Budget / bytes_per_kv_head, 1, shape.num_kv_heads);
  return static_cast<int>(kv_heads) * units_per_kv;
}

void check_args(const Plan& plan, const Args& args) {
  const Shape& shape = plan.shape;
  LH_CHECK(args.scale > 0, "scale {}", args.scale);
  LH_CHECK(args.workspace != nullptr && args.table != nullptr && args.out != nullptr &&
           args.lse != nullptr);
  LH_CHECK(
      args.out_stride >= int64_t{shape.num_heads} * shape.head_dim_v && args.out_stride % 8 == 0,
      "out stride {}", args.out_stride);
  LH_CHECK(plan.options.page_size == 0 || args.page_table != nullptr,
           "a plan of pages of {} tokens, but no page table", plan.options.page_size);
  LH_CHECK((args.ready.flags == nullptr) == (args.ready.row_sources == nullptr),
           "ready flags and the sources of rows go together");
  LH_CHECK(std::max(args.q_rows, args.kv_rows) <= int64_t{1} << 30, "{} and {} rows", args.q_rows,
           args.kv_rows);
}

// What only the general kernel reads.
template <class C>
void set_general(Params& params, const Plan& plan, const Args& args) {
  const int page = plan.options.page_size;
  params.accumulate = args.out_type == OutType::f32_accumulate;
  params.exact = plan.options.deterministic;
  params.heads_per_tile = plan.heads_per_tile;
  params.box_rows = page == 0 ? C::kBlockN : std::gcd(page, C::kBlockN);
  params.page_shift = page == 0 ? 0 : std::countr_zero(static_cast<unsigned>(page));
  params.page_table = args.page_table;
  params.flags = args.ready.flags;
  params.row_sources = args.ready.row_sources;
  params.flag_value = args.ready.value;
  const PartialLayout at = partial_layout(plan);
  auto* const base = static_cast<char*>(args.workspace);
  params.arrivals = reinterpret_cast<unsigned*>(base + kCountersBytes);
  params.partial_out = reinterpret_cast<float*>(base + at.out);
  params.partial_state = reinterpret_cast<float2*>(base + at.state);
}

void merge(const Params& params, const Plan& plan, int rows, cudaStream_t stream) {
  MergeParams m{};
  m.merges = reinterpret_cast<const Merge*>(params.tiles + plan.num_tiles);
  m.partial_out = params.partial_out;
  m.partial_state = params.partial_state;
  m.out = params.out;
  m.lse = params.lse;
  m.out_stride = params.out_stride;
  m.num_heads = static_cast<int32_t>(params.num_heads);
  m.num_units = static_cast<int32_t>(params.num_units);
  m.heads_per_tile = params.heads_per_tile;
  m.rows_per_tile = rows;
  m.head_dim_v = plan.shape.head_dim_v;
  m.out_f32 = params.out_f32;
  m.accumulate = params.accumulate;
  LH_CUDA(launch_merge(m, plan.num_merges, stream));
}

template <class C>
void run(const Plan& plan, const Args& args, cudaStream_t stream) {
  const Shape& shape = plan.shape;
  LH_CHECK(C::kBlockM == rows_per_tile(shape) && C::kBlockN == keys_per_block(shape),
           "a plan of {} x {} tiles for a kernel of {} x {}", rows_per_tile(shape),
           keys_per_block(shape), C::kBlockM, C::kBlockN);
  const bool general = plan.options.page_size > 0 || plan.options.deterministic ||
                       plan.heads_per_tile > 1 || plan.num_partials > 0 ||
                       args.ready.flags != nullptr || args.out_type == OutType::f32_accumulate;
  const int heads = plan.heads_per_tile, units = shape.num_heads / heads;
  const int units_per_kv = units / shape.num_kv_heads;
  Params params{};
  if (general) set_general<C>(params, plan, args);
  const int kv_box = general ? params.box_rows : C::kBlockN;
  params.q = tensor_map(args.q, args.q_rows, shape.num_heads, C::kD, args.q_stride, heads,
                        C::kBlockM / heads);
  params.k = tensor_map(args.k, args.kv_rows, shape.num_kv_heads, C::kD, args.k_stride, 1, kv_box);
  params.v = tensor_map(args.v, args.kv_rows, shape.num_kv_heads, C::kDv, args.v_stride, 1, kv_box);
  params.counters = static_cast<Counters*>(args.workspace);
  params.tiles = static_cast<const Tile*>(args.table);
  params.k_data = args.k;
  params.k_stride = args.k_stride;
  params.out = args.out;
  params.lse = args.lse;
  params.out_stride = args.out_stride;
  params.num_tiles = static_cast<uint32_t>(plan.num_tiles);
  params.num_heads = static_cast<uint32_t>(shape.num_heads);
  params.num_units = static_cast<uint32_t>(units);
  params.units_per_kv = static_cast<uint32_t>(units_per_kv);
  params.units_per_section = static_cast<uint32_t>(units_per_section(plan, units_per_kv));
  params.scale_log2 = static_cast<float>(args.scale * kLog2E);
  params.out_f32 = args.out_type != OutType::bf16;

  const auto blocks =
      static_cast<int>(std::min<int64_t>(plan.options.multiprocessors, plan.num_tiles * units));
  int device = 0;
  LH_CUDA(cudaGetDevice(&device));
  if (plan.num_merges > 0) LH_CUDA(load_merge());
  LH_CUDA(general ? launch<General<C>>(params, device, blocks, stream)
                  : launch<C>(params, device, blocks, stream));
  if (plan.num_merges > 0) merge(params, plan, C::kBlockM, stream);
}

}  // namespace

bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not) {
  if (!shape_supported(shape, why_not)) return false;
  if (device.hopper()) return true;
  if (why_not != nullptr) {
    *why_not = fmt::format("its instructions are those of compute capability 9.0, GPU {} has {}.{}",
                           device.ordinal, device.major, device.minor);
  }
  return false;
}

void forward(const Plan& plan, const Args& args, cudaStream_t stream) {
  if (plan.num_tiles == 0) return;
  check_args(plan, args);
  switch (plan.shape.head_dim) {
    case 64:
      return run<ConfigD64>(plan, args, stream);
    case 128:
      return run<ConfigD128>(plan, args, stream);
    case 192:
      return run<ConfigD192>(plan, args, stream);
    default:
      return run<ConfigD256>(plan, args, stream);
  }
}

}  // namespace longhaul::attention::cuda::sm90
