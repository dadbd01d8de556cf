// Merging of partial results: properties over random parts, empty ones and extreme magnitudes.

#include "attention/lse_merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Part {
  Tensor out, lse;
  Partial view() const { return {out, lse}; }
};

Part make_part(DType dtype, const Shape& shape) {
  return {Tensor(dtype, shape), Tensor(dtype, {shape[0], shape[1]})};
}

// lse over hundreds of units apart; every fifth row empty, with NaN in an out that is not read.
Part random_part(DType dtype, const Shape& shape, Rng& rng, double spread) {
  Part p = make_part(dtype, shape);
  fill_normal(p.out, rng);
  for (int64_t r = 0; r < p.lse.num_elements(); ++r) {
    const bool empty = uniform(rng, 0, 4) == 0;
    set(p.lse, r, empty ? -kInf : spread * normal(rng));
    if (empty)
      for (int64_t d = 0; d < shape[2]; ++d) set(p.out, r * shape[2] + d, kNaN);
  }
  return p;
}

Part merged(const Part& a, const Part& b, ThreadPool& pool) {
  Part m = make_part(a.out.dtype(), a.out.shape());
  merge_partials(a.view(), b.view(), m.out, m.lse, pool);
  return m;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data(), b.data(), static_cast<size_t>(a.num_bytes())) == 0;
}

// Against the formula in long double. Rounding: two exponentials, a sum, a quotient and a weighted
// sum, each within u or a few of it, and u |lse| in the arguments of the exponentials: 8 u + u
// |lse|.
TEST(LseMerge, IsTheWeightedMean) {
  Rng rng(1);
  ThreadPool pool(3);
  for (int i = 0; i < 200; ++i) {
    const DType dtype = i % 2 == 0 ? DType::f32 : DType::f64;
    const double u = i % 2 == 0 ? 0x1p-24 : 0x1p-53;
    const Shape shape{uniform(rng, 0, 9), uniform(rng, 1, 5), uniform(rng, 1, 70)};
    const double spread = i % 3 == 0 ? 300 : 2;
    const Part a = random_part(dtype, shape, rng, spread);
    const Part b = random_part(dtype, shape, rng, spread);
    const Part m = merged(a, b, pool);
    for (int64_t r = 0; r < m.lse.num_elements(); ++r) {
      const double la = get(a.lse, r), lb = get(b.lse, r);
      if (la == -kInf && lb == -kInf) {
        EXPECT_EQ(get(m.lse, r), -kInf);
        for (int64_t d = 0; d < shape[2]; ++d) EXPECT_EQ(get(m.out, r * shape[2] + d), 0);
        continue;
      }
      const long double top = std::max(la, lb);
      const long double wa = std::exp(la - top), wb = std::exp(lb - top);
      const double size =
          std::max(std::isinf(la) ? 0 : std::abs(la), std::isinf(lb) ? 0 : std::abs(lb));
      EXPECT_NEAR(get(m.lse, r), static_cast<double>(top + std::log(wa + wb)), (8 + 2 * size) * u);
      for (int64_t d = r * shape[2]; d < (r + 1) * shape[2]; ++d) {
        const long double oa = wa == 0 ? 0 : get(a.out, d), ob = wb == 0 ? 0 : get(b.out, d);
        const auto want = static_cast<double>((wa * oa + wb * ob) / (wa + wb));
        const auto most = static_cast<double>(std::max(std::abs(oa), std::abs(ob)));
        EXPECT_NEAR(get(m.out, d), want, (8 + 2 * size) * u * most);
      }
    }
  }
}

TEST(LseMerge, TheOrderOfTwoPartsDoesNotShow) {
  Rng rng(2);
  ThreadPool pool(2);
  for (int i = 0; i < 100; ++i) {
    const Shape shape{7, 3, uniform(rng, 1, 70)};
    const Part a = random_part(DType::f32, shape, rng, 5);
    const Part b = random_part(DType::f32, shape, rng, 5);
    const Part ab = merged(a, b, pool), ba = merged(b, a, pool);
    EXPECT_TRUE(same_bits(ab.out, ba.out));
    EXPECT_TRUE(same_bits(ab.lse, ba.lse));
  }
}

// (a b) c against a (b c): two merges each, so twice the bound above on either side.
TEST(LseMerge, IsAssociativeWithinRounding) {
  Rng rng(3);
  ThreadPool pool(2);
  for (int i = 0; i < 100; ++i) {
    const Shape shape{5, 2, 33};
    const Part a = random_part(DType::f64, shape, rng, 4);
    const Part b = random_part(DType::f64, shape, rng, 4);
    const Part c = random_part(DType::f64, shape, rng, 4);
    const Part left = merged(merged(a, b, pool), c, pool);
    const Part right = merged(a, merged(b, c, pool), pool);
    for (int64_t r = 0; r < left.lse.num_elements(); ++r) {
      if (get(left.lse, r) == -kInf) {
        EXPECT_EQ(get(right.lse, r), -kInf);
        continue;
      }
      EXPECT_NEAR(get(left.lse, r), get(right.lse, r), 4 * 40 * 0x1p-53);
      for (int64_t d = r * shape[2]; d < (r + 1) * shape[2]; ++d)
        EXPECT_NEAR(get(left.out, d), get(right.out, d), 4 * 40 * 0x1p-53 * 5);
    }
  }
}

TEST(LseMerge, AnEmptyPartPassesTheOtherThroughBitForBit) {
  Rng rng(4);
  ThreadPool pool(1);
  const Shape shape{6, 2, 19};
  Part a = make_part(DType::f32, shape), empty = make_part(DType::f32, shape);
  fill_normal(a.out, rng, 1e30);
  fill_normal(a.lse, rng, 1e30);
  fill(empty.out, kNaN);
  fill(empty.lse, -kInf);
  for (const Part& m : {merged(a, empty, pool), merged(empty, a, pool)}) {
    EXPECT_TRUE(same_bits(m.out, a.out));
    EXPECT_TRUE(same_bits(m.lse, a.lse));
  }
}

TEST(LseMerge, HugeAndTinyMagnitudesNeitherOverflowNorVanish) {
  ThreadPool pool(1);
  for (const double lse : {-3e38, -1e4, 0.0, 1e4, 3e38}) {
    Part a = make_part(DType::f32, {1, 1, 4}), b = make_part(DType::f32, {1, 1, 4});
    fill(a.out, 1);
    fill(b.out, 3);
    fill(a.lse, lse);
    fill(b.lse, lse);
    const Part m = merged(a, b, pool);
    for (int64_t d = 0; d < 4; ++d) EXPECT_EQ(get(m.out, d), 2) << lse;
    EXPECT_NEAR(get(m.lse, 0), lse + std::log(2), std::abs(lse) * 1e-7 + 1e-6);
  }
}

// Where a key's value is NaN its part is NaN: merging must not hide it.
TEST(LseMerge, NaNStaysNaN) {
  ThreadPool pool(1);
  Part a = make_part(DType::f32, {1, 1, 3}), b = make_part(DType::f32, {1, 1, 3});
  fill(a.out, 1);
  fill(a.lse, 0);
  fill(b.out, kNaN);
  fill(b.lse, kNaN);
  const Part m = merged(a, b, pool);
  EXPECT_TRUE(std::isnan(get(m.lse, 0)));
  for (int64_t d = 0; d < 3; ++d) EXPECT_TRUE(std::isnan(get(m.out, d)));
}

TEST(LseMerge, MergesInPlaceAndRoundsToBf16Once) {
  Rng rng(5);
  ThreadPool pool(2);
  const Shape shape{40, 3, 48};
  const Part a = random_part(DType::f32, shape, rng, 3), b = random_part(DType::f32, shape, rng, 3);
  const Part m = merged(a, b, pool);
  Tensor rounded(DType::bf16, shape), stored(DType::bf16, shape);
  merge_partials(a.view(), b.view(), rounded, TensorView{}, pool);
  store_rounded(m.out, stored, pool);
  EXPECT_TRUE(same_bits(rounded, stored));
  for (int64_t d = 0; d < rounded.num_elements(); ++d)
    EXPECT_EQ(get(rounded, d), static_cast<double>(bf16(static_cast<float>(get(m.out, d)))));
  Part in_place = make_part(DType::f32, shape);
  std::memcpy(in_place.out.data(), a.out.data(), static_cast<size_t>(a.out.num_bytes()));
  std::memcpy(in_place.lse.data(), a.lse.data(), static_cast<size_t>(a.lse.num_bytes()));
  merge_partials(in_place.view(), b.view(), in_place.out, in_place.lse, pool);
  EXPECT_TRUE(same_bits(in_place.out, m.out));
  EXPECT_TRUE(same_bits(in_place.lse, m.lse));
}

}  // namespace
}  // namespace longhaul::attention::testing
