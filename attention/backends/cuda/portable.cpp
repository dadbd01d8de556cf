#include "attention/backends/cuda/portable.h"

#include <algorithm>
#include <bit>

#include "attention/backends/cuda/portable_config.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::attention::cuda::portable {
namespace {

constexpr int64_t kL2Budget = int64_t{32} << 20;  // keys and values worked on at one time
constexpr double kLog2E = 1.4426950408889634;

static_assert(kReadyWordRows == kReadyRows);
static_assert(static_cast<int>(Output::bf16) == static_cast<int>(OutType::bf16) &&
              static_cast<int>(Output::f32) == static_cast<int>(OutType::f32) &&
              static_cast<int>(Output::f32_accumulate) ==
                  static_cast<int>(OutType::f32_accumulate));

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

void check_args(const Plan& plan, const Args& args) {
  const Shape& s = plan.shape;
  const int64_t bytes = dtype_size(s.dtype);
  const int64_t out_bytes = args.out_type == OutType::bf16 ? 2 : 4;
  LH_CHECK(plan.kernel == Kernel::portable, "a plan of another kernel");
  LH_CHECK(args.scale > 0, "scale {}", args.scale);
  LH_CHECK(args.q != nullptr && args.out != nullptr && args.lse != nullptr && args.table != nullptr,
           "q, out, lse or table missing");
  LH_CHECK(plan.max_kv_length == 0 || (args.k != nullptr && args.v != nullptr), "k or v missing");
  LH_CHECK(plan.workspace_bytes == 0 || args.workspace != nullptr, "{} bytes of workspace missing",
           plan.workspace_bytes);
  LH_CHECK(aligned(args.q) && aligned(args.k) && aligned(args.v) && aligned(args.out) &&
               aligned(args.workspace),
           "q, k, v, out or workspace is not aligned to 16 bytes");
  LH_CHECK(args.q_stride * bytes % 16 == 0 && args.k_stride * bytes % 16 == 0 &&
               args.v_stride * bytes % 16 == 0 && args.out_stride * out_bytes % 16 == 0,
           "strides {} {} {} {} are not multiples of 16 bytes", args.q_stride, args.k_stride,
           args.v_stride, args.out_stride);
  LH_CHECK(args.kv_rows < (int64_t{1} << 31) && args.k_stride * bytes < (int64_t{1} << 31) &&
               args.v_stride * bytes < (int64_t{1} << 31),
           "{} rows of keys and values, strides {} and {}: more than 31 bits", args.kv_rows,
           args.k_stride, args.v_stride);
  LH_CHECK(plan.options.page_size == 0 || args.page_table != nullptr, "page table missing");
  LH_CHECK(args.ready.flags == nullptr || args.ready.row_sources != nullptr,
           "ready flags without the sources of rows");
  LH_CHECK(plan.num_tiles * s.num_heads < (int64_t{1} << 31), "{} tiles x {} heads", plan.num_tiles,
           s.num_heads);
}

// Heads that should run through all tiles together: as many groups as keep their keys in the L2.
uint32_t heads_per_section(const Plan& plan) {
  const Shape& s = plan.shape;
  const int64_t bytes_per_kv_head =
      std::max<int64_t>(1, plan.max_kv_length * dtype_size(s.dtype) * (s.head_dim + s.head_dim_v));
  const int64_t kv_heads = std::clamp<int64_t>(kL2Budget / bytes_per_kv_head, 1, s.num_kv_heads);
  return static_cast<uint32_t>(kv_heads * (s.num_heads / s.num_kv_heads));
}

Params make_params(const Plan& plan, const Args& args) {
  const Shape& s = plan.shape;
  Params p{};
  p.q = args.q;
  p.k = args.k;
  p.v = args.v;
  p.out = args.out;
  p.lse = args.lse;
  p.q_stride = args.q_stride;
  p.k_stride = args.k_stride;
  p.v_stride = args.v_stride;
  p.out_stride = args.out_stride;
  p.tiles = static_cast<const Tile*>(args.table);
  p.partials = static_cast<float*>(args.workspace);
  p.counters_end =
      reinterpret_cast<uint32_t*>(static_cast<char*>(args.workspace) + plan.workspace_bytes);
  p.page_table = args.page_table;
  p.page_shift = std::countr_zero(static_cast<unsigned>(std::max(plan.options.page_size, 1)));
  p.flags = args.ready.flags;
  p.row_sources = args.ready.row_sources;
  p.flag_value = args.ready.value;
  p.num_tiles = static_cast<uint32_t>(plan.num_tiles);
  p.num_heads = static_cast<uint32_t>(s.num_heads);
  p.group = static_cast<uint32_t>(s.num_heads / s.num_kv_heads);
  p.heads_per_section = heads_per_section(plan);
  p.head_dim = s.head_dim;
  p.head_dim_v = s.head_dim_v;
  p.scale = static_cast<float>(args.scale);
  p.scale_log2 = static_cast<float>(args.scale * kLog2E);
  p.output = static_cast<Output>(args.out_type);
  return p;
}

}  // namespace

void forward(const Plan& plan, const Args& args, cudaStream_t stream) {
  if (plan.num_tiles == 0) return;
  check_args(plan, args);
  Params params = make_params(plan, args);
  with_config(plan.shape, [&](auto config) {
    using C = decltype(config);
    const bool hopper = longhaul::cuda::current_device().major >= 9;
    const int shared = C::fixed_bytes(plan.shape.head_dim) + C::slots(hopper) * C::kSlotBytes;
    const cudaError_t error = launch<C>(
        params, static_cast<unsigned>(plan.num_tiles * plan.shape.num_heads), shared, stream);
    if (error != cudaSuccess) {
      fail(ExitCode::resource, "portable attention: launch with {} KiB of shared memory failed: {}",
           shared / 1024, cudaGetErrorString(error));
    }
  });
}

}  // namespace longhaul::attention::cuda::portable
