#include "runtime/ops/linear_f64.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/ops/elementwise.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/ops/linear_f64.cpp"
#include <hwy/foreach_target.h>
// clang-format off: highway.h must come after foreach_target.h
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longhaul::ops::f64 {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<double>;
using V = hn::Vec<D>;

// dst [kRows, 2 vectors] += src [kRows, depth] * panel [depth, 2 vectors]. Four rows by two vectors
// are eight chains, enough to hide the latency of two multiply-add units, and fit 16 registers.
template <int kRows>
HWY_INLINE void tile(const double* HWY_RESTRICT src, int64_t src_stride,
                     const double* HWY_RESTRICT panel, int64_t depth, double* HWY_RESTRICT dst,
                     int64_t dst_stride) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const double* s0 = src;
  const double* s1 = src + (kRows > 1 ? src_stride : 0);
  const double* s2 = src + (kRows > 2 ? 2 * src_stride : 0);
  const double* s3 = src + (kRows > 3 ? 3 * src_stride : 0);
  double* d0 = dst;
  double* d1 = dst + dst_stride;
  double* d2 = dst + 2 * dst_stride;
  double* d3 = dst + 3 * dst_stride;
  V a0 = hn::LoadU(d, d0), b0 = hn::LoadU(d, d0 + lanes);
  V a1 = a0, b1 = b0, a2 = a0, b2 = b0, a3 = a0, b3 = b0;
  if (kRows > 1) a1 = hn::LoadU(d, d1), b1 = hn::LoadU(d, d1 + lanes);
  if (kRows > 2) a2 = hn::LoadU(d, d2), b2 = hn::LoadU(d, d2 + lanes);
  if (kRows > 3) a3 = hn::LoadU(d, d3), b3 = hn::LoadU(d, d3 + lanes);
  for (int64_t k = 0; k < depth; ++k, panel += 2 * lanes) {
    const V p = hn::LoadU(d, panel), q = hn::LoadU(d, panel + lanes);
    const V x0 = hn::Set(d, s0[k]);
    a0 = hn::MulAdd(x0, p, a0);
    b0 = hn::MulAdd(x0, q, b0);
    if (kRows > 1) {
      const V x1 = hn::Set(d, s1[k]);
      a1 = hn::MulAdd(x1, p, a1);
      b1 = hn::MulAdd(x1, q, b1);
    }
    if (kRows > 2) {
      const V x2 = hn::Set(d, s2[k]);
      a2 = hn::MulAdd(x2, p, a2);
      b2 = hn::MulAdd(x2, q, b2);
    }
    if (kRows > 3) {
      const V x3 = hn::Set(d, s3[k]);
      a3 = hn::MulAdd(x3, p, a3);
      b3 = hn::MulAdd(x3, q, b3);
    }
  }
  hn::StoreU(a0, d, d0), hn::StoreU(b0, d, d0 + lanes);
  if (kRows > 1) hn::StoreU(a1, d, d1), hn::StoreU(b1, d, d1 + lanes);
  if (kRows > 2) hn::StoreU(a2, d, d2), hn::StoreU(b2, d, d2 + lanes);
  if (kRows > 3) hn::StoreU(a3, d, d3), hn::StoreU(b3, d, d3 + lanes);
}

// One panel by `rows` rows; `sums` [rows, 2 vectors] starts with the bias and ends as the result.
void Panel(const double* src, const double* panel, double* sums, int64_t rows, int64_t in) {
  const auto width = static_cast<int64_t>(2 * hn::Lanes(D()));
  constexpr int64_t kDepth = 256;  // a panel's slice of this depth stays in the first-level cache
  for (int64_t k = 0; k < in; k += kDepth) {
    const int64_t depth = std::min(kDepth, in - k);
    const double* slice = panel + k * width;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
      tile<4>(src + r * in + k, in, slice, depth, sums + r * width, width);
    for (; r < rows; ++r) tile<1>(src + r * in + k, in, slice, depth, sums + r * width, width);
  }
}

int64_t PanelWidth() {
  return static_cast<int64_t>(2 * hn::Lanes(D()));
}

}  // namespace HWY_NAMESPACE
}  // namespace longhaul::ops::f64
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longhaul::ops::f64 {
namespace {

HWY_EXPORT(Panel);
HWY_EXPORT(PanelWidth);

constexpr int64_t kRowTile = 64;

}  // namespace

Tensor pack(ConstTensorView weight) {
  const int64_t out = weight.shape[0], in = weight.shape[1];
  const int64_t width = HWY_DYNAMIC_DISPATCH(PanelWidth)();
  const int64_t panels = (out + width - 1) / width;
  Tensor packed(DType::f64, {panels, in, width}, MemoryUse::weights);
  Tensor rows(DType::f64, {width, in});
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t count = std::min(width, out - p * width);
    convert(weight.row_range(p * width, count), rows.view().row_range(0, count));
    double* to = packed.as<double>() + p * in * width;
    const double* from = rows.as<double>();
    for (int64_t k = 0; k < in; ++k)
      for (int64_t j = 0; j < width; ++j) to[k * width + j] = j < count ? from[j * in + k] : 0.0;
  }
  return packed;
}

void multiply(const double* src, const Tensor& packed, const double* bias, double* dst,
              int64_t rows, int64_t in, int64_t out, ThreadPool& pool) {
  const int64_t panels = packed.shape()[0], width = packed.shape()[2];
  const double* weights = packed.as<double>();
  // Panels in one task: enough arithmetic to pay for handing it out.
  const int64_t group =
      std::max<int64_t>(1, 100000 / std::max<int64_t>(1, in * width * std::min(rows, kRowTile)));
  const int64_t groups = (panels + group - 1) / group;
  const int64_t row_tiles = (rows + kRowTile - 1) / kRowTile;
  pool.parallel_for(row_tiles * groups, [&](int64_t task, int) {
    const int64_t r0 = task / groups * kRowTile, count = std::min(kRowTile, rows - r0);
    const int64_t first = task % groups * group, last = std::min(first + group, panels);
    std::vector<double> sums(static_cast<size_t>(count * width));
    for (int64_t p = first; p < last; ++p) {
      const int64_t c0 = p * width, columns = std::min(width, out - c0);
      std::fill(sums.begin(), sums.end(), 0.0);
      if (bias != nullptr)
        for (int64_t r = 0; r < count; ++r)
          std::copy_n(bias + c0, columns, &sums[static_cast<size_t>(r * width)]);
      HWY_DYNAMIC_DISPATCH(Panel)(src + r0 * in, weights + p * in * width, sums.data(), count, in);
      for (int64_t r = 0; r < count; ++r)
        std::copy_n(&sums[static_cast<size_t>(r * width)], columns, dst + (r0 + r) * out + c0);
    }
  });
}

}  // namespace longhaul::ops::f64
#endif
