// Row-wise operators against the same formula in double.
#include "runtime/ops/elementwise.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/unit/ops/ops_test_support.h"

namespace longhaul::ops {
namespace {

using namespace test;

constexpr DType kTypes[] = {DType::f64, DType::f32, DType::bf16};

bool same_bits(ConstTensorView a, ConstTensorView b) {
  return std::memcmp(a.data, b.data, static_cast<size_t>(b.num_bytes())) == 0 && a.shape == b.shape;
}

// `relative` bounds the error of the computation in the accumulator type; bf16 rounds once more.
void expect_close(double got, double expected, double relative, double absolute, DType dtype) {
  double bound = relative * std::abs(expected) + absolute;
  if (dtype == DType::bf16) bound += kUnitBf16 * (std::abs(expected) + bound);
  if (std::isnan(expected))
    EXPECT_TRUE(std::isnan(got));
  else
    EXPECT_LE(std::abs(got - expected), bound) << got << " for " << expected;
}

double accumulator_unit(DType dtype) {
  return unit_of(accumulator_dtype(dtype));
}

TEST(RmsNorm, MatchesDouble) {
  Random random(1);
  ThreadPool pool(2);
  for (int i = 0; i < 1500; ++i) {
    const DType dtype = kTypes[i % 3];
    const int64_t n = pick(random, 1, i % 50 == 0 ? 3000 : 150);
    const bool heads = i % 2 == 0;  // [tokens, heads, head_dim], as for q and k norms
    const int64_t tokens = pick(random, 0, 9), num_heads = pick(random, 1, 5);
    const Shape shape = heads ? Shape({tokens, num_heads, n}) : Shape({tokens, n});
    const double eps = i % 5 == 0 ? 0 : 1e-6;
    Tensor x = random_tensor(random, dtype, shape);
    const Tensor weight = random_tensor(random, dtype, {n});
    const std::vector<double> xs = as_double(x), w = as_double(weight);
    Tensor out(dtype, shape);
    rms_norm(x, weight, eps, out, pool);
    const std::vector<double> got = as_double(out);
    // The sum of n squares, all positive, is within gamma_n of right, its root within half of
    // that; the division, root, conversion and two products add at most four roundings.
    const double relative = (static_cast<double>(n) / 2 + 4) * accumulator_unit(dtype);
    for (int64_t r = 0; r < shape.num_elements() / n; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k)
        sum += xs[static_cast<size_t>(r * n + k)] * xs[static_cast<size_t>(r * n + k)];
      const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + eps);
      for (int64_t k = 0; k < n; ++k)
        expect_close(got[static_cast<size_t>(r * n + k)],
                     xs[static_cast<size_t>(r * n + k)] * scale * w[static_cast<size_t>(k)],
                     relative, kSmallest32, dtype);
    }
    rms_norm(x, weight, eps, x, pool);  // in place
    EXPECT_TRUE(same_bits(x, out));
    if (HasFailure()) return;
  }
}

TEST(Add, MatchesDouble) {
  Random random(2);
  ThreadPool pool(2);
  for (int i = 0; i < 1000; ++i) {
    const DType dtype = kTypes[i % 3];
    const Shape shape = {pick(random, 0, 20), pick(random, 0, 70)};
    Tensor x = random_tensor(random, dtype, shape);
    const Tensor y = random_tensor(random, dtype, shape);
    const std::vector<double> a = as_double(x), b = as_double(y);
    add(x, y, pool);
    const std::vector<double> got = as_double(x);
    for (size_t k = 0; k < got.size(); ++k)
      expect_close(got[k], a[k] + b[k], accumulator_unit(dtype), kSmallest32, dtype);
    if (HasFailure()) return;
  }
}

double silu(double g) {  // in a form that cannot overflow
  const double e = std::exp(-std::abs(g));
  return g * (g >= 0 ? 1 / (1 + e) : e / (1 + e));
}

TEST(Swiglu, MatchesDouble) {
  Random random(3);
  ThreadPool pool(2);
  for (int i = 0; i < 1500; ++i) {
    const DType dtype = kTypes[i % 3];
    const int64_t rows = pick(random, 0, 12), n = pick(random, 1, 90);
    Tensor in = random_tensor(random, DType::f64, {rows, 2 * n});
    const double spread = i % 2 == 0 ? 1 : 30;  // far into both tails of the exponential
    for (int64_t k = 0; k < in.num_elements(); ++k) in.as<double>()[k] *= spread;
    const Tensor gate_up = converted(in, dtype);
    const std::vector<double> v = as_double(gate_up);
    Tensor out(dtype, {rows, n});
    swiglu(gate_up, out, pool);
    const std::vector<double> got = as_double(out);
    // The exponential is good to two units; sum, division and two products round once each.
    const double relative = 8 * accumulator_unit(dtype);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < n; ++k) {
        const double gate = v[static_cast<size_t>(r * 2 * n + k)];
        const double up = v[static_cast<size_t>(r * 2 * n + n + k)];
        // Below exp(-87) float32's exponential is subnormal or zero.
        const double absolute = 4 * kSmallest32 * (1 + std::abs(gate * up));
        expect_close(got[static_cast<size_t>(r * n + k)], silu(gate) * up, relative, absolute,
                     dtype);
      }
    if (HasFailure()) return;
  }
}

TEST(Swiglu, Extremes) {
  ThreadPool pool(1);
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> gate = {0, -0.0, 1e30, -1e30, 700, -700, inf, -inf, nan};
  const std::vector<double> expected = {0, 0, 1e30, 0, 700, 0, inf, nan, nan};  // with up = 1
  const auto n = static_cast<int64_t>(gate.size());
  for (const DType dtype : kTypes) {
    Tensor in(DType::f64, {1, 2 * n});
    for (int64_t k = 0; k < n; ++k) {
      in.as<double>()[k] = gate[static_cast<size_t>(k)];
      in.as<double>()[n + k] = 1;
    }
    Tensor out(dtype, {1, n});
    swiglu(converted(in, dtype), out, pool);
    const std::vector<double> got = as_double(out);
    for (size_t k = 0; k < gate.size(); ++k) {
      SCOPED_TRACE(fmt::format("{} of {}", dtype_name(dtype), gate[k]));
      if (std::isinf(expected[k]))
        EXPECT_EQ(got[k], expected[k]);
      else
        expect_close(got[k], expected[k], kUnit32 * 8, 1e-290, dtype);
    }
  }
}

TEST(Rows, ResultsDoNotDependOnThreadsOrOtherRows) {
  Random random(4);
  ThreadPool one(1), four(4);
  for (const DType dtype : kTypes) {
    constexpr int64_t kRows = 301, n = 1037;  // large enough to be split
    const Tensor x = random_tensor(random, dtype, {kRows, 2 * n});
    const Tensor weight = random_tensor(random, dtype, {2 * n});
    Tensor a(dtype, {kRows, 2 * n}), b(dtype, {kRows, 2 * n}), single(dtype, {1, 2 * n});
    rms_norm(x, weight, 1e-5, a, one);
    rms_norm(x, weight, 1e-5, b, four);
    EXPECT_TRUE(same_bits(a, b));
    rms_norm(x.view().row_range(77, 1), weight, 1e-5, single, one);
    EXPECT_TRUE(same_bits(a.view().row_range(77, 1), single));
    Tensor c(dtype, {kRows, n}), d(dtype, {kRows, n}), row(dtype, {1, n});
    swiglu(x, c, one);
    swiglu(x, d, four);
    EXPECT_TRUE(same_bits(c, d));
    swiglu(x.view().row_range(200, 1), row, one);
    EXPECT_TRUE(same_bits(c.view().row_range(200, 1), row));
    add(a, x, one);
    add(b, x, four);
    EXPECT_TRUE(same_bits(a, b));
  }
}

TEST(Embed, TakesRows) {
  Random random(5);
  ThreadPool pool(3);
  for (int i = 0; i < 300; ++i) {
    const DType dtype = kTypes[i % 3];
    const int64_t vocabulary = pick(random, 1, 40), hidden = pick(random, 1, 50);
    const Tensor table = random_tensor(random, dtype, {vocabulary, hidden});
    std::vector<int32_t> ids(static_cast<size_t>(pick(random, 0, 30)));
    for (int32_t& id : ids) id = static_cast<int32_t>(pick(random, 0, vocabulary - 1));
    Tensor out(dtype, {static_cast<int64_t>(ids.size()), hidden});
    embed(table, ids, out, pool);
    for (size_t k = 0; k < ids.size(); ++k)
      EXPECT_TRUE(same_bits(out.view().row_range(static_cast<int64_t>(k), 1),
                            table.view().row_range(ids[k], 1)));
  }
  const Tensor table = random_tensor(random, DType::f32, {4, 2});
  Tensor out(DType::f32, {1, 2});
  EXPECT_THROW(embed(table, std::vector<int32_t>{4}, out, pool), Error);
  EXPECT_THROW(embed(table, std::vector<int32_t>{-1}, out, pool), Error);
}

TEST(CopyColumns, TakesColumns) {
  Random random(6);
  ThreadPool pool(2);
  for (int i = 0; i < 600; ++i) {
    const DType dtype = kTypes[i % 3];
    const int64_t rows = pick(random, 0, 20), n = pick(random, 1, 60);
    const int64_t begin = pick(random, 0, n), count = pick(random, 0, n - begin);
    const Tensor x = random_tensor(random, dtype, {rows, n});
    Tensor out(dtype, {rows, count});
    copy_columns(x, begin, count, out, pool);
    const std::vector<double> from = as_double(x), to = as_double(out);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < count; ++k)
        EXPECT_EQ(to[static_cast<size_t>(r * count + k)],
                  from[static_cast<size_t>(r * n + begin + k)]);
  }
  Tensor x(DType::f32, {2, 5}), out(DType::f32, {2, 3});
  EXPECT_THROW(copy_columns(x, 3, 3, out, pool), Error);
}

TEST(Elementwise, RefusesShapesThatDoNotFit) {
  ThreadPool pool(1);
  Tensor x(DType::f32, {2, 6}), y(DType::f32, {2, 5}), w(DType::f32, {6}), v(DType::bf16, {6});
  EXPECT_THROW(rms_norm(x, w, 1e-6, y, pool), Error);
  EXPECT_THROW(rms_norm(x, v, 1e-6, x, pool), Error);
  EXPECT_THROW(add(x, y, pool), Error);
  EXPECT_THROW(swiglu(x, y, pool), Error);
  Tensor ints(DType::i32, {2, 6});
  EXPECT_THROW(add(ints, ints, pool), Error);
}

}  // namespace
}  // namespace longhaul::ops
