#include "attention/lse_merge.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace longhaul::attention {
namespace {

constexpr int64_t kGrainElements = 16384;  // below this a hand-over to another thread costs more

// The loops below have no dependence between elements: the compiler vectorises them, and the work
// is bound by memory (three rows of traffic, one exponential a row).
template <class Acc, class Out>
void mix_row(const Acc* a, const Acc* b, Acc weight_a, Acc weight_b, int64_t n, Out* out) {
  for (int64_t d = 0; d < n; ++d) out[d] = static_cast<Out>(weight_a * a[d] + weight_b * b[d]);
}

template <class Acc, class Out>
void copy_row(const Acc* from, int64_t n, Out* to) {
  if constexpr (std::is_same_v<Acc, Out>) {
    if (from == to) return;
  }
  for (int64_t d = 0; d < n; ++d) to[d] = static_cast<Out>(from[d]);
}

template <class Acc, class Out>
void merge_row(const Acc* a, Acc lse_a, const Acc* b, Acc lse_b, int64_t n, Out* out, Acc* lse) {
  constexpr Acc kEmpty = -std::numeric_limits<Acc>::infinity();
  if (lse_b == kEmpty) {
    if (lse_a == kEmpty)
      for (int64_t d = 0; d < n; ++d) out[d] = static_cast<Out>(Acc{0});
    else
      copy_row(a, n, out);
    if (lse != nullptr) *lse = lse_a;
    return;
  }
  if (lse_a == kEmpty) {
    copy_row(b, n, out);
    if (lse != nullptr) *lse = lse_b;
    return;
  }
  const Acc top = lse_a > lse_b ? lse_a : lse_b;
  const Acc exp_a = std::exp(lse_a - top);
  const Acc exp_b = std::exp(lse_b - top);
  const Acc sum = exp_a + exp_b;
  mix_row(a, b, exp_a / sum, exp_b / sum, n, out);
  if (lse != nullptr) *lse = top + std::log(sum);
}

template <class Acc, class Out>
void merge_typed(const Partial& a, const Partial& b, TensorView out, TensorView lse,
                 ThreadPool& pool) {
  const int64_t rows = a.lse.num_elements();
  const int64_t dim = a.out.shape[2];
  const Acc* out_a = a.out.as<Acc>();
  const Acc* out_b = b.out.as<Acc>();
  const Acc* lse_a = a.lse.as<Acc>();
  const Acc* lse_b = b.lse.as<Acc>();
  Out* merged = out.as<Out>();
  Acc* merged_lse = lse.data != nullptr ? lse.as<Acc>() : nullptr;
  pool.parallel_ranges(rows, kGrainElements / (dim + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      merge_row(out_a + r * dim, lse_a[r], out_b + r * dim, lse_b[r], dim, merged + r * dim,
                merged_lse != nullptr ? merged_lse + r : nullptr);
  });
}

template <class F>
void dispatch_result(DType accumulated, DType out, F&& f) {
  if (accumulated == DType::f64 && out == DType::f64) return f(double{}, double{});
  if (accumulated == DType::f32 && out == DType::f32) return f(float{}, float{});
  if (accumulated == DType::f32 && out == DType::bf16) return f(float{}, bf16{});
  LH_CHECK(false, "partials of {} to {}", dtype_name(accumulated), dtype_name(out));
}

}  // namespace

void merge_partials(const Partial& a, const Partial& b, TensorView out, TensorView lse,
                    ThreadPool& pool) {
  LH_CHECK(a.out.shape.rank() == 3 && a.out.shape == b.out.shape && a.out.shape == out.shape,
           "partials {} and {} to {}", a.out.shape.to_string(), b.out.shape.to_string(),
           out.shape.to_string());
  LH_CHECK(a.lse.shape == Shape({a.out.shape[0], a.out.shape[1]}) && a.lse.shape == b.lse.shape,
           "lse {} and {} of {}", a.lse.shape.to_string(), b.lse.shape.to_string(),
           a.out.shape.to_string());
  LH_CHECK(lse.data == nullptr || lse.shape == a.lse.shape, "lse {} to {}", a.lse.shape.to_string(),
           lse.shape.to_string());
  dispatch_result(a.out.dtype, out.dtype, [&](auto acc, auto result) {
    merge_typed<decltype(acc), decltype(result)>(a, b, out, lse, pool);
  });
}

void store_rounded(ConstTensorView accumulated, TensorView out, ThreadPool& pool) {
  LH_CHECK(accumulated.shape == out.shape, "{} to {}", accumulated.shape.to_string(),
           out.shape.to_string());
  if (accumulated.data == out.data) return;
  dispatch_result(accumulated.dtype, out.dtype, [&](auto acc, auto result) {
    using Acc = decltype(acc);
    using Out = decltype(result);
    const Acc* from = accumulated.as<Acc>();
    Out* to = out.as<Out>();
    pool.parallel_ranges(
        accumulated.num_elements(), kGrainElements,
        [&](int64_t begin, int64_t end) { copy_row(from + begin, end - begin, to + begin); });
  });
}

}  // namespace longhaul::attention
