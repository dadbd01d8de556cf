#include "moe/cuda/experts.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

#include "moe/cuda/grouped_gemm.h"
#include "moe/cuda/permutation.h"
#include "moe/cuda/sm90_gemm.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda/check.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::moe::cuda {
namespace {

constexpr int64_t kMostPairs = (int64_t{1} << 31) - 1;

// The pieces of the scratch memory. Run with a null base it measures.
struct Scratch {
  Permutation permutation;
  void* wide = nullptr;  // [pairs, hidden]: the experts' outputs
  void* act = nullptr;   // [pairs, intermediate]
  int64_t bytes = 0;

  Scratch(const ExpertShape& shape, int64_t rows, int tile_rows, void* base) {
    const auto take = [&](int64_t count, int64_t size) {
      char* const piece = static_cast<char*>(base) + bytes;
      bytes += (count * size + 255) / 256 * 256;
      return piece;
    };
    const auto ints = [&](int64_t count) { return reinterpret_cast<int32_t*>(take(count, 4)); };
    Permutation& p = permutation;
    p.pairs = rows * shape.top_k;
    p.top_k = shape.top_k;
    p.num_experts = shape.num_experts;
    p.tile_rows = tile_rows;
    p.chunk_counts = ints(chunks(p.pairs) * shape.num_experts);
    p.expert_begin = ints(shape.num_experts + 1);
    p.num_tiles = ints(1);
    p.row = ints(p.pairs);
    p.place = ints(p.pairs);
    p.tiles = reinterpret_cast<RowTile*>(
        take(most_tiles(p.pairs, shape.num_experts, tile_rows), sizeof(RowTile)));
    wide = take(p.pairs * shape.hidden, dtype_size(shape.dtype));
    act = take(p.pairs * shape.intermediate, dtype_size(shape.dtype));
  }
};

bool aligned(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

void check_tensor(const char* name, const ConstTensorView& t, DType dtype, const Shape& shape) {
  LH_CHECK(t.dtype == dtype && t.shape == shape, "{} is {} {}, not {} {}", name,
           dtype_name(t.dtype), t.shape.to_string(), dtype_name(dtype), shape.to_string());
  LH_CHECK(aligned(t.data, 16), "{} at {} is not 16-byte aligned", name, t.data);
}

// What LONGHAUL_MOE_KERNEL asks for, else the best that the device and the dtype allow.
bool choose_sm90(DType dtype) {
  const ::longhaul::cuda::Device& device = ::longhaul::cuda::current_device();
  const bool can = device.hopper() && dtype == DType::bf16;
  const char* const name = std::getenv("LONGHAUL_MOE_KERNEL");
  if (name == nullptr || *name == 0) return can;
  const std::string_view asked = name;
  if (asked == "portable") return false;
  if (asked != "sm90")
    fail(ExitCode::usage, "LONGHAUL_MOE_KERNEL={}: there are \"portable\" and \"sm90\"", asked);
  if (!can)
    fail(ExitCode::usage,
         "LONGHAUL_MOE_KERNEL=sm90 needs bf16 and compute capability 9.0, not {} and {}.{} ({})",
         dtype_name(dtype), device.major, device.minor, device.name);
  return true;
}

}  // namespace

bool supported(const ExpertShape& s, std::string* why_not) {
  const auto no = [&](std::string why) {
    if (why_not != nullptr) *why_not = std::move(why);
    return false;
  };
  if (s.dtype != DType::bf16 && s.dtype != DType::f32)
    return no(fmt::format("experts on a GPU run in bf16 or f32, not {}", dtype_name(s.dtype)));
  if (s.num_experts < 1 || s.num_experts > kMostExperts)
    return no(fmt::format("{} experts; a GPU takes 1 to {}", s.num_experts, kMostExperts));
  if (s.top_k < 1 || s.top_k > std::min(s.num_experts, kMostTopK))
    return no(fmt::format("top {} of {} experts; a GPU takes 1 to {}", s.top_k, s.num_experts,
                          std::min(s.num_experts, kMostTopK)));
  const int64_t multiple = 16 / dtype_size(s.dtype);
  if (s.hidden < 1 || s.intermediate < 1 || s.hidden % multiple != 0 ||
      s.intermediate % multiple != 0)
    return no(fmt::format("hidden {} and intermediate {} have to be multiples of {} in {}",
                          s.hidden, s.intermediate, multiple, dtype_name(s.dtype)));
  return true;
}

Experts::Experts(const ExpertShape& shape, ConstTensorView gate_up, ConstTensorView down)
    : shape_(shape), gate_up_(gate_up.data), down_(down.data) {
  std::string why_not;
  if (!supported(shape, &why_not)) fail(ExitCode::usage, "{}", why_not);
  check_tensor("gate_up", gate_up, shape.dtype,
               {shape.num_experts, 2 * shape.intermediate, shape.hidden});
  check_tensor("down", down, shape.dtype, {shape.num_experts, shape.hidden, shape.intermediate});
  multiprocessors_ = ::longhaul::cuda::current_device().multiprocessors;
  sm90_ = choose_sm90(shape.dtype);
}

int Experts::tile_rows() const {
  return sm90_ ? kSm90TileRows : kPortableTileRows;
}

int64_t Experts::scratch_bytes(int64_t rows) const {
  return Scratch(shape_, rows, tile_rows(), nullptr).bytes;
}

void Experts::route(ConstTensorView router_logits, TensorView ids, TensorView weights,
                    cudaStream_t stream) const {
  const int64_t rows = router_logits.rows();
  check_tensor("router logits", router_logits, DType::f32, {rows, shape_.num_experts});
  check_tensor("expert ids", ids, DType::i32, {rows, shape_.top_k});
  check_tensor("expert weights", weights, DType::f32, {rows, shape_.top_k});
  if (rows == 0) return;
  LH_CUDA(route_rows(router_logits.as<float>(), rows, shape_.num_experts, shape_.top_k,
                     shape_.normalize, ids.as<int32_t>(), weights.as<float>(), stream));
}

void Experts::apply(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, TensorView out,
                    bool residual, void* scratch, cudaStream_t stream, const Mark& mark) const {
  const int64_t rows = x.rows();
  check_tensor("x", x, shape_.dtype, {rows, shape_.hidden});
  check_tensor("out", out, shape_.dtype, {rows, shape_.hidden});
  check_tensor("expert ids", ids, DType::i32, {rows, shape_.top_k});
  check_tensor("expert weights", weights, DType::f32, {rows, shape_.top_k});
  LH_CHECK(rows * shape_.top_k <= kMostPairs, "{} rows x top {}; use chunks of fewer rows", rows,
           shape_.top_k);
  if (rows == 0) return;
  LH_CHECK(scratch != nullptr && aligned(scratch, 256), "scratch at {}", scratch);
  const bool f32 = shape_.dtype == DType::f32;
  const Scratch s(shape_, rows, tile_rows(), scratch);
  const Permutation& p = s.permutation;
  LH_CUDA(make_permutation(p, ids.as<int32_t>(), stream));
  const auto multiply = [&](const GroupedGemm& g, Product product) {
    if (sm90_) {
      sm90_gemm(g, product, stream);
    } else {
      LH_CUDA((f32 ? portable_gemm_f32 : portable_gemm_bf16)(g, product, stream));
    }
  };
  GroupedGemm g;
  g.tiles = p.tiles;
  g.num_tiles = p.num_tiles;
  g.most_tiles = most_tiles(p.pairs, p.num_experts, p.tile_rows);
  g.places = p.pairs;
  g.num_experts = shape_.num_experts;
  g.multiprocessors = multiprocessors_;

  g.row = p.row;
  g.a = x.data;
  g.a_rows = rows;
  if (mark) mark("permute");
  g.weights = gate_up_;
  g.out = s.act;
  g.depth = shape_.hidden;
  g.columns = shape_.intermediate;
  multiply(g, Product::gate_up);
  if (mark) mark("gate_up");

  g.row = nullptr;
  g.a = s.act;
  g.a_rows = p.pairs;
  g.weights = down_;
  g.out = s.wide;
  g.depth = shape_.intermediate;
  g.columns = shape_.hidden;
  multiply(g, Product::down);
  if (mark) mark("down");

  LH_CUDA(combine_rows(p, ids.as<int32_t>(), weights.as<float>(), s.wide, out.data, shape_.hidden,
                       f32, residual, stream));
  if (mark) mark("combine");
}

}  // namespace longhaul::moe::cuda
