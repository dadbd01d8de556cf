// Row-wise and element-wise operators against the same in float64 on the host: odd sizes, odd
// addresses, nothing at all, poisoned outputs.

#include "runtime/ops/cuda/elementwise.h"

#include <algorithm>
#include <limits>

#include "tests/gpu/ops/ops_test_support.h"

namespace longhaul::test {
namespace {

using namespace ops::cuda;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
const std::vector<DType> kTypes = {DType::f32, DType::bf16};

std::string name(const char* op, DType dtype, int64_t rows, int64_t n) {
  return fmt::format("{} {} [{}, {}]", op, dtype_name(dtype), rows, n);
}

// A view of the rows but the first: an address that may be no multiple of 16.
TensorView without_first(TensorView t) {
  return t.row_range(1, t.rows() - 1);
}

struct Size {
  int64_t rows, n;
};
const std::vector<Size> kSizes = {{0, 64},   {1, 1},    {3, 7},     {5, 64},    {33, 128},
                                  {17, 768}, {9, 130},  {100, 257}, {64, 2048}, {7, 2880},
                                  {5, 4096}, {3, 8192}, {2, 9000},  {3, 16384}, {2, 40000}};

TEST_F(GpuOps, AddRoundsOnce) {
  for (const DType dtype : kTypes)
    for (const Size s : kSizes) {
      const std::vector<double> x = random_values((s.rows + 1) * s.n, dtype);
      const std::vector<double> y = random_values((s.rows + 1) * s.n, dtype);
      const DeviceTensor dx = upload(x, dtype, {s.rows + 1, s.n});
      const DeviceTensor dy = upload(y, dtype, {s.rows + 1, s.n});
      add(without_first(dx.view()), without_first(dy.view()), stream());
      std::vector<double> want = x;
      for (size_t i = static_cast<size_t>(s.n); i < x.size(); ++i)
        want[i] = rounded(static_cast<float>(x[i]) + static_cast<float>(y[i]), dtype);
      EXPECT_EQ(download(dx), want) << name("add", dtype, s.rows, s.n);
    }
}

TEST_F(GpuOps, Swiglu) {
  for (const DType dtype : kTypes)
    for (const Size s : kSizes) {
      const std::vector<double> x = random_values(s.rows * 2 * s.n, dtype, 20);
      const DeviceTensor dx = upload(x, dtype, {s.rows, 2 * s.n});
      const DeviceTensor out = poisoned(dtype, {s.rows, s.n});
      swiglu(dx, out, stream());
      std::vector<double> want;
      for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t i = 0; i < s.n; ++i) {
          const double gate = x[static_cast<size_t>(r * 2 * s.n + i)];
          want.push_back(gate / (1 + std::exp(-gate)) *
                         x[static_cast<size_t>(r * 2 * s.n + s.n + i)]);
        }
      // The exponential of an argument of up to 100 that is off by half a unit, twice for the
      // approximate one; four more roundings.
      const double arithmetic = (dtype == DType::f32 ? 10 : 400) * kRound32;
      expect_within(
          download(out), want,
          [&](size_t i) {
            return std::abs(want[i]) * (arithmetic + rounding(dtype) * 1.001) + 1e-37;
          },
          name("swiglu", dtype, s.rows, s.n));
    }
}

// want = norm(x), and the bound of an element's relative error.
std::vector<double> norm_of(const std::vector<double>& x, const std::vector<double>& weight,
                            double eps, int64_t rows, int64_t n) {
  std::vector<double> want;
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
      sum += x[static_cast<size_t>(r * n + i)] * x[static_cast<size_t>(r * n + i)];
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i)
      want.push_back(x[static_cast<size_t>(r * n + i)] * scale * weight[static_cast<size_t>(i)]);
  }
  return want;
}
double norm_bound(DType dtype, int64_t n) {
  // A thread adds up to n / 256 (or 64) squares one by one, then 8 levels; the root halves that.
  const double chain = static_cast<double>(std::max<int64_t>(64, n / 256)) + 8;
  return (chain / 2 + 4) * kRound32 + rounding(dtype) * 1.001;
}

TEST_F(GpuOps, RmsNorm) {
  for (const DType dtype : kTypes)
    for (const Size s : kSizes) {
      const std::vector<double> x = random_values((s.rows + 1) * s.n, dtype, 3);
      const std::vector<double> weight = random_values(s.n, dtype);
      const DeviceTensor dx = upload(x, dtype, {s.rows + 1, s.n});
      const DeviceTensor dw = upload(weight, dtype, {s.n});
      const DeviceTensor out = poisoned(dtype, {s.rows + 1, s.n});
      rms_norm(without_first(dx.view()), dw, 1e-6, without_first(out.view()), stream());
      const std::vector<double> want =
          norm_of({x.begin() + s.n, x.end()}, weight, 1e-6, s.rows, s.n);
      const std::vector<double> all = download(out);
      expect_within(
          {all.begin() + s.n, all.end()}, want,
          [&](size_t i) { return std::abs(want[i]) * norm_bound(dtype, s.n) + 1e-37; },
          name("rms_norm", dtype, s.rows, s.n));
      for (int64_t i = 0; i < s.n; ++i) ASSERT_TRUE(std::isnan(all[static_cast<size_t>(i)]));
      rms_norm(dx, dw, 1e-6, dx, stream());  // in place
      const std::vector<double> in_place = download(dx);
      EXPECT_EQ(std::vector<double>(in_place.begin() + s.n, in_place.end()),
                std::vector<double>(all.begin() + s.n, all.end()));
    }
}

TEST_F(GpuOps, AddRmsNormIsAddThenRmsNorm) {
  for (const DType dtype : kTypes)
    for (const Size s : kSizes) {
      const Shape shape = {s.rows, s.n};
      const std::vector<double> x = random_values(s.rows * s.n, dtype);
      const DeviceTensor hidden = upload(x, dtype, shape), apart = upload(x, dtype, shape);
      const DeviceTensor delta = upload(random_values(s.rows * s.n, dtype), dtype, shape);
      const DeviceTensor weight = upload(random_values(s.n, dtype), dtype, {s.n});
      const DeviceTensor out = poisoned(dtype, shape), want = poisoned(dtype, shape);
      add_rms_norm(hidden, delta, weight, 1e-5, out, stream());
      add(apart, delta, stream());
      rms_norm(apart, weight, 1e-5, want, stream());
      EXPECT_EQ(download(hidden), download(apart)) << name("sum", dtype, s.rows, s.n);
      EXPECT_EQ(download(out), download(want)) << name("norm", dtype, s.rows, s.n);
    }
}

TEST_F(GpuOps, GatherAndEmbed) {
  for (const Size s : kSizes) {
    if (s.rows == 0) continue;
    const int64_t count = between(0, 70);
    std::vector<int64_t> rows;
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) {
      rows.push_back(between(-1, s.rows));  // the ends are outside
      ids.push_back(static_cast<int32_t>(rows.back()));
    }
    const DeviceTensor drows = upload_as(rows, {count}), dids = upload_as(ids, {count});
    for (const DType from : kTypes) {
      const std::vector<double> x = random_values(s.rows * s.n, from);
      const DeviceTensor dx = upload(x, from, {s.rows, s.n});
      for (const DType to : kTypes) {
        std::vector<double> want;
        for (const int64_t r : rows)
          for (int64_t i = 0; i < s.n; ++i)
            want.push_back(r < 0 || r >= s.rows ? kNan
                                                : rounded(x[static_cast<size_t>(r * s.n + i)], to));
        const auto same = [](double a, double b) {
          return a == b || (std::isnan(a) && std::isnan(b));
        };
        const DeviceTensor out = poisoned(to, {count, s.n});
        embed(dx, dids, out, stream());
        EXPECT_TRUE(std::ranges::equal(download(out), want, same)) << name("embed", to, count, s.n);
        if (from != to) continue;
        const DeviceTensor again = poisoned(to, {count, s.n});
        gather_rows(dx, drows, again, stream());
        EXPECT_TRUE(std::ranges::equal(download(again), want, same))
            << name("gather", to, count, s.n);
      }
    }
  }
}

TEST_F(GpuOps, ConvertRoundsToNearestEven) {
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{9}, int64_t{4099}}) {
    std::vector<double> x = random_values(count, DType::f32, 1e3);
    for (double& v : x) {
      v += v * 1e-9 * static_cast<double>(between(-9, 9));
      if (between(0, 9) == 0) v = static_cast<double>(bf16(static_cast<float>(v))) * (1 + 0x1p-8);
      if (between(0, 99) == 0) v = kNan;
      if (between(0, 99) == 0) v = 1e300;
    }
    const DeviceTensor f64 = upload_as(x, {count}), f32 = poisoned(DType::f32, {count});
    const DeviceTensor b16 = poisoned(DType::bf16, {count}), via = poisoned(DType::bf16, {count});
    const DeviceTensor half = poisoned(DType::f16, {count}), back = poisoned(DType::f32, {count});
    convert(f64, f32, stream());
    convert(f64, b16, stream());
    convert(f32, via, stream());
    convert(f32, half, stream());
    convert(half, back, stream());
    const auto got32 = download_as<float>(f32), gotback = download_as<float>(back);
    const auto got16 = download_as<bf16>(b16), gotvia = download_as<bf16>(via);
    for (size_t i = 0; i < x.size(); ++i) {
      const auto nearest = static_cast<float>(x[i]);
      if (std::isnan(x[i])) {
        EXPECT_TRUE(std::isnan(got32[i]) && std::isnan(static_cast<float>(got16[i])) &&
                    std::isnan(gotback[i]));
        continue;
      }
      EXPECT_EQ(got32[i], nearest);
      EXPECT_EQ(gotvia[i].bits, bf16(nearest).bits);
      if (std::isfinite(nearest)) {
        // The nearest of the two neighbours of the float32's rounding.
        const auto got = static_cast<double>(got16[i]);
        const double gap = std::abs(got - x[i]);
        for (const int step : {-1, 1}) {
          bf16 other = got16[i];
          other.bits = static_cast<uint16_t>(other.bits + step);
          const double other_gap = std::abs(static_cast<double>(other) - x[i]);
          EXPECT_TRUE(gap < other_gap || (gap == other_gap && got16[i].bits % 2 == 0)) << x[i];
        }
        EXPECT_LE(std::abs(static_cast<double>(gotback[i]) - static_cast<double>(nearest)),
                  std::abs(static_cast<double>(nearest)) * 0x1p-11 + 0x1p-25);
      } else {
        EXPECT_TRUE(std::isinf(static_cast<float>(got16[i])) && std::isinf(gotback[i]));
      }
    }
  }
}

TEST_F(GpuOps, ArgmaxTakesTheFirstOfTheLargest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int64_t n : {1, 3, 1000, 4096, 32001, 151936}) {
    const int64_t rows = 12;
    std::vector<float> x(static_cast<size_t>(rows * n));
    for (float& v : x) v = static_cast<float>(between(-20, 20));
    const auto row = [&](int64_t r) { return x.begin() + r * n; };
    std::fill(row(0), row(1), nan);
    std::fill(row(1), row(2), -infinity);
    std::fill(row(2), row(3), -0.0F);
    x[static_cast<size_t>(3 * n - 1)] = 0.0F;
    *row(3) = nan;
    *row(4) = infinity;
    std::fill(row(5), row(6), nan);
    x[static_cast<size_t>(6 * n - 1)] = -infinity;
    std::vector<int32_t> want;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t best = -1;
      for (int64_t i = 0; i < n; ++i)
        if (!std::isnan(row(r)[i]) && (best < 0 || row(r)[i] > row(r)[best])) best = i;
      want.push_back(static_cast<int32_t>(std::max<int64_t>(best, 0)));
    }
    const DeviceTensor dx = upload_as(x, {rows, n});
    const DeviceTensor out = poisoned(DType::i32, {rows});
    argmax_rows(dx, out, stream());
    EXPECT_EQ(download_as<int32_t>(out), want) << n;
  }
}

}  // namespace
}  // namespace longhaul::test
