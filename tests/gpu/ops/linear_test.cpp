// Linear layers against float64 on the host; deterministic ones against themselves.

#include "runtime/ops/cuda/linear.h"

#include <algorithm>

#include "runtime/ops/cuda/machine_peak.h"
#include "runtime/ops/cuda/random.h"
#include "tests/gpu/ops/ops_test_support.h"

namespace longhaul::test {
namespace {

using namespace ops::cuda;

struct Case {
  DType dtype, out_dtype;
  int64_t rows, in, out;
  bool bias;
  LinearOptions options;
  bool prepare;
};

class LinearLayer : public GpuOps {
 protected:
  void run(const Case& c) {
    const int64_t features =
        c.options.num_features < 0 ? c.out - c.options.first_feature : c.options.num_features;
    const int64_t stride = c.options.out_row_stride == 0 ? features : c.options.out_row_stride;
    const std::vector<double> x = random_values(c.rows * c.in, c.dtype);
    const std::vector<double> w = random_values(c.out * c.in, c.dtype);
    const std::vector<double> b = random_values(c.out, c.dtype);
    const std::vector<double> before = random_values(c.rows * stride, c.out_dtype, 5);
    const DeviceTensor dx = upload(x, c.dtype, {c.rows, c.in});
    const DeviceTensor dw = upload(w, c.dtype, {c.out, c.in});
    const DeviceTensor db = upload(b, c.dtype, {c.out});
    const DeviceTensor out = c.options.accumulate ? upload(before, c.out_dtype, {c.rows, stride})
                                                  : poisoned(c.out_dtype, {c.rows, stride});
    const Linear layer(dw, c.bias ? ConstTensorView(db) : ConstTensorView(), c.dtype);
    if (c.prepare) layer.prepare(c.rows, c.out_dtype, stream(), c.options);
    layer.apply(dx, TensorView{out.view().data, c.out_dtype, {c.rows, features}}, stream(),
                c.options);
    const std::vector<double> all = download(out);
    std::vector<double> got, want, bound;
    for (int64_t r = 0; r < c.rows; ++r)
      for (int64_t i = 0; i < stride; ++i) {
        const auto at = static_cast<size_t>(r * stride + i);
        if (i >= features) {  // not ours to write
          ASSERT_TRUE(c.options.accumulate ? all[at] == before[at] : std::isnan(all[at]));
          continue;
        }
        const int64_t feature = c.options.first_feature + i;
        double sum = 0, size = 0;
        for (int64_t j = 0; j < c.in; ++j) {
          const double term =
              x[static_cast<size_t>(r * c.in + j)] * w[static_cast<size_t>(feature * c.in + j)];
          sum += term;
          size += std::abs(term);
        }
        // Where the library works in steps, each result is rounded to the type of out.
        double steps = 0;
        if (c.bias || c.options.accumulate) steps += std::abs(sum);
        if (c.bias) sum += b[static_cast<size_t>(feature)];
        if (c.bias && c.options.accumulate) steps += std::abs(sum);
        if (c.options.accumulate) sum += before[at];
        got.push_back(all[at]);
        want.push_back(sum);
        // float32 sums in any order err like a random walk; TensorFloat32 would err a thousand
        // times as much.
        bound.push_back((8 + std::sqrt(static_cast<double>(c.in))) * kRound32 * (size + 10) +
                        1.001 * rounding(c.out_dtype) * (std::abs(sum) + steps));
      }
    expect_within(
        got, want, [&](size_t i) { return bound[i]; },
        fmt::format(
            "{} to {} [{}, {}] x {} bias {} accumulate {} from {} stride {} fixed {} tuned {}",
            dtype_name(c.dtype), dtype_name(c.out_dtype), c.rows, c.in, features, c.bias,
            c.options.accumulate, c.options.first_feature, stride, c.options.deterministic,
            c.prepare));
  }
};

TEST_F(LinearLayer, AnyShape) {
  for (int i = 0; i < 160; ++i) {
    Case c{};
    c.dtype = between(0, 1) == 0 ? DType::f32 : DType::bf16;
    c.out_dtype = between(0, 2) == 0 ? DType::f32 : c.dtype;
    const int64_t unit = between(0, 2) == 0 ? 1 : 8;
    c.rows = between(0, 4) == 0 ? between(1, 300) : between(0, 20);
    c.in = unit * between(1, 400 / unit);
    c.out = unit * between(1, 200 / unit);
    c.bias = between(0, 1) == 0;
    c.options.accumulate = between(0, 1) == 0;
    c.options.deterministic = between(0, 2) == 0;
    if (between(0, 1) == 0) {
      c.options.first_feature = between(0, c.out / unit) * unit;
      c.options.num_features = between(0, (c.out - c.options.first_feature) / unit) * unit;
    }
    if (between(0, 3) == 0) c.options.out_row_stride = c.out + unit * between(0, 9);
    c.prepare = between(0, 1) == 0;
    run(c);
  }
}

// All rows of `whole` against runs of fewer.
TEST_F(LinearLayer, DeterministicRowsDoNotDependOnTheirNumber) {
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{2048, 5120}, {4096, 2048}, {2048, 128}};
  const std::vector<std::pair<DType, DType>> types = {
      {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}, {DType::f32, DType::f32}};
  for (const auto& [in, out] : shapes)
    for (const auto& [dtype, out_dtype] : types) {
      const int64_t most = 9000;
      const DeviceTensor x = poisoned(dtype, {most, in}), w = poisoned(dtype, {out, in});
      fill_random(x, 1, 0, 1, stream());
      fill_random(w, 2, 0, 1, stream());
      const Linear layer(w, {}, dtype);
      LinearOptions options;
      options.deterministic = true;
      const DeviceTensor whole = poisoned(out_dtype, {most, out}),
                         part = poisoned(out_dtype, {most, out});
      layer.apply(x, whole, stream(), options);  // the fixed choice; later ones are tuned
      const std::vector<double> want = download(whole);
      std::vector<int64_t> counts = {1,    2,    3,    7,    8,    15,   16,  17,  31,
                                     64,   65,   127,  128,  129,  255,  257, 500, 1000,
                                     1023, 2049, 4095, 4097, 6000, 8191, 8999};
      for (int i = 0; i < 6; ++i) counts.push_back(between(1, most));
      for (const int64_t count : counts) {
        const int64_t begin = between(0, 1) == 0 ? 0 : between(0, most - count);
        if (between(0, 2) != 0) layer.prepare(count, out_dtype, stream(), options);
        layer.apply(x.view().row_range(begin, count), part.view().row_range(0, count), stream(),
                    options);
        const std::vector<double> got = download(part.view().row_range(0, count));
        EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin() + begin * out))
            << in << " to " << out << ", " << count << " rows from " << begin;
      }
    }
}

TEST_F(LinearLayer, RowsPastTwoToThe31Elements) {
  const int64_t in = 4096, rows = (int64_t{1} << 31) / in + 777, out = 32;
  const DeviceTensor x = poisoned(DType::bf16, {rows, in}), w = poisoned(DType::bf16, {out, in});
  fill_random(x, 1, 0, 1, stream());
  fill_random(w, 2, 0, 1, stream());
  const Linear layer(w, {}, DType::bf16);
  const DeviceTensor y = poisoned(DType::f32, {rows, out}), few = poisoned(DType::f32, {3, out});
  layer.apply(x, y, stream());
  for (const int64_t row : {int64_t{0}, (int64_t{1} << 31) / in - 1, rows - 3}) {
    layer.apply(x.view().row_range(row, 3), few, stream());
    const std::vector<double> got = download(y.view().row_range(row, 3)), want = download(few);
    expect_within(
        got, want, [](size_t) { return 1e-3; }, "rows");
  }
}

TEST_F(LinearLayer, RefusesWhatDoesNotFit) {
  const DeviceTensor w = poisoned(DType::bf16, {8, 16}), x = poisoned(DType::bf16, {2, 16});
  const DeviceTensor y = poisoned(DType::bf16, {2, 7});
  const Linear layer(w, {}, DType::bf16);
  EXPECT_THROW(layer.apply(x, y, stream()), Error);
  EXPECT_THROW(Linear(w, {}, DType::f32), Error);
  EXPECT_THROW(Linear(w, x, DType::bf16), Error);
}

TEST_F(LinearLayer, CeilingsAreMeasured) {
  EXPECT_GT(matmul_ceiling(stream()), 1e12);
  EXPECT_GT(copy_ceiling(stream()), 1e11);
}

}  // namespace
}  // namespace longhaul::test
