// Linear layers against sums in a wider type.
#include "runtime/ops/linear.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "tests/unit/ops/ops_test_support.h"

namespace longhaul::ops {
namespace {

using namespace test;

struct Case {
  int64_t in = 1, out = 1;
  DType weight_type = DType::f32, bias_type = DType::f32, compute = DType::f32;
  bool bias = false;
  std::string name() const {
    return fmt::format("{} -> {}, weight {}, bias {}, compute {}", in, out, dtype_name(weight_type),
                       bias ? dtype_name(bias_type) : "none", dtype_name(compute));
  }
};

Case random_case(Random& random, int64_t largest) {
  constexpr DType kStored[] = {DType::f32, DType::bf16, DType::f16, DType::f64};
  constexpr DType kCompute[] = {DType::f32, DType::bf16, DType::f64};
  Case c;
  c.in = pick(random, 1, largest);
  c.out = pick(random, 1, largest);
  c.weight_type = kStored[pick(random, 0, 3)];
  c.bias_type = kStored[pick(random, 0, 3)];
  c.compute = kCompute[pick(random, 0, 2)];
  c.bias = pick(random, 0, 1) == 1;
  return c;
}

struct Layer {
  Case c;
  Tensor weight, bias;
  Linear linear;
  // As computed with: rounded to the compute type (the bias to its accumulator type).
  std::vector<double> exact_weight, exact_bias;

  Layer(Random& random, const Case& given) : c(given) {
    weight = random_tensor(random, c.weight_type, {c.out, c.in});
    if (c.bias) bias = random_tensor(random, c.bias_type, {c.out});
    linear = Linear(weight, c.bias ? bias.view() : TensorView(), c.compute);
    exact_weight = as_double(converted(weight, c.compute));
    if (c.bias) exact_bias = as_double(converted(bias, accumulator_dtype(c.compute)));
  }
};

// Every element within the bound of a sum of in + 1 rounded products in any order (Higham, Accuracy
// and Stability of Numerical Algorithms, section 3.1): gamma = n u / (1 - n u), n = in + 1 products
// and the bias, times the sum of the absolute products; then one rounding to the output type. u is
// float32's for bf16, whose products are exact in float32. bf16 dot-product instructions flush
// subnormals, hence the absolute term.
void expect_close(const Layer& layer, ConstTensorView x, ConstTensorView y) {
  const std::vector<double> xs = as_double(x), ys = as_double(y);
  const int64_t in = layer.c.in, out = layer.c.out;
  const double n = static_cast<double>(in) + 2;
  const double u = layer.c.compute == DType::f64 ? kUnit64 : kUnit32;
  const double gamma = n * u / (1 - n * u);
  int shown = 0;
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t j = 0; j < out; ++j) {
      long double sum = layer.c.bias ? layer.exact_bias[static_cast<size_t>(j)] : 0.0;
      long double absolute = std::abs(sum);
      for (int64_t k = 0; k < in; ++k) {
        const long double p = static_cast<long double>(xs[static_cast<size_t>(r * in + k)]) *
                              layer.exact_weight[static_cast<size_t>(j * in + k)];
        sum += p;
        absolute += std::abs(p);
      }
      double bound = gamma * static_cast<double>(absolute) + n * kSmallest32;
      if (y.dtype == DType::bf16) bound += kUnitBf16 * (std::abs(static_cast<double>(sum)) + bound);
      const double error =
          std::abs(ys[static_cast<size_t>(r * out + j)] - static_cast<double>(sum));
      if (!(error <= bound) && shown++ < 3)
        ADD_FAILURE() << layer.c.name() << ", row " << r << " of " << x.rows() << ", column " << j
                      << ": " << ys[static_cast<size_t>(r * out + j)] << " is " << error << " from "
                      << static_cast<double>(sum) << ", allowed " << bound;
    }
}

DType random_out_type(Random& random, DType compute) {
  return compute == DType::bf16 && pick(random, 0, 1) == 1 ? DType::f32 : compute;
}

Tensor apply(const Layer& layer, ConstTensorView x, DType out_type, ThreadPool& pool) {
  Tensor y(out_type, {x.rows(), layer.c.out});
  std::memset(y.data(), 0xff, static_cast<size_t>(y.num_bytes()));  // NaN where not written
  layer.linear.apply(x, y, pool);
  return y;
}

bool same_bits(ConstTensorView a, ConstTensorView b) {
  return a.dtype == b.dtype && a.shape == b.shape &&
         std::memcmp(a.data, b.data, static_cast<size_t>(a.num_bytes())) == 0;
}

TEST(Linear, MatchesWiderSumsOnRandomShapes) {
  Random random(1);
  ThreadPool pool(2);
  for (int i = 0; i < 400; ++i) {
    const Layer layer(random, random_case(random, i < 350 ? 70 : 300));
    for (int repeat = 0; repeat < 4; ++repeat) {
      const Tensor x = random_tensor(random, layer.c.compute, {pick(random, 0, 40), layer.c.in});
      const DType out_type = random_out_type(random, layer.c.compute);
      expect_close(layer, x, apply(layer, x, out_type, pool));
    }
    if (HasFailure()) return;
  }
}

TEST(Linear, MatchesAtTheSeamsOfItsTiles) {
  Random random(2);
  ThreadPool pool(3);
  for (const DType compute : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t out : {1, 63, 64, 65, 512, 515, 2049}) {
      const int64_t in = out > 600 ? 3 : pick(random, 1, 40);
      const Layer layer(random, {in, out, compute, DType::f32, compute, true});
      for (const int64_t rows : {1, 4, 5, 9, 16, 17, 63, 64, 79, 255, 256, 257, 511, 530}) {
        const Tensor x = random_tensor(random, compute, {rows, in});
        expect_close(layer, x, apply(layer, x, random_out_type(random, compute), pool));
      }
      if (HasFailure()) return;
    }
}

// Layer sizes of real models, where the library picks other kernels; sampled rows only.
TEST(Linear, MatchesOnLongSums) {
  Random random(3);
  ThreadPool pool(2);
  for (const DType compute : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t in : {1024, 3072, 4099}) {
      const Layer layer(random, {in, 71, DType::bf16, DType::f32, compute, false});
      const Tensor x = random_tensor(random, compute, {21, in});
      expect_close(layer, x, apply(layer, x, compute, pool));
    }
}

TEST(Linear, GivesTheSameBitsForAnyNumberOfThreads) {
  Random random(4);
  for (int i = 0; i < 60; ++i) {
    const Layer layer(random, random_case(random, i % 10 == 0 ? 700 : 120));
    const Tensor x = random_tensor(random, layer.c.compute, {pick(random, 1, 300), layer.c.in});
    ThreadPool one(1);
    const Tensor expected = apply(layer, x, layer.c.compute, one);
    for (const int threads : {2, 3, 4}) {
      ThreadPool pool(threads);
      EXPECT_TRUE(same_bits(expected, apply(layer, x, layer.c.compute, pool)))
          << layer.c.name() << ", " << threads << " threads";
    }
  }
}

TEST(Linear, ARowDoesNotDependOnTheOthers) {
  Random random(5);
  ThreadPool pool(2);
  for (int i = 0; i < 60; ++i) {
    const Layer layer(random, random_case(random, 150));
    const int64_t rows = pick(random, 2, 90), spoilt = pick(random, 0, rows - 1);
    Tensor x = random_tensor(random, layer.c.compute, {rows, layer.c.in});
    const Tensor before = apply(layer, x, layer.c.compute, pool);
    std::memset(x.view().row_range(spoilt, 1).data, 0xff,
                static_cast<size_t>(x.view().row_bytes()));  // NaN
    const Tensor after = apply(layer, x, layer.c.compute, pool);
    for (int64_t r = 0; r < rows; ++r)
      if (r != spoilt) {
        EXPECT_TRUE(same_bits(before.view().row_range(r, 1), after.view().row_range(r, 1)))
            << layer.c.name() << ", row " << r << " of " << rows << ", NaN in row " << spoilt;
      }
    for (const double v : as_double(after.view().row_range(spoilt, 1))) EXPECT_TRUE(std::isnan(v));
  }
}

// What makes a chunked prefill the same bits as a whole one.
TEST(Linear, RowCountDoesNotMatterWhereItSaysSo) {
  Random random(6);
  ThreadPool pool(2);
  int checked = 0;
  for (int i = 0; i < 60; ++i) {
    const Layer layer(random, random_case(random, i % 3 == 0 ? 600 : 90));
    if (!layer.linear.row_count_independent()) continue;
    ++checked;
    const int64_t rows = pick(random, 2, 330);
    const Tensor x = random_tensor(random, layer.c.compute, {rows, layer.c.in});
    const DType out_type = random_out_type(random, layer.c.compute);
    const Tensor whole = apply(layer, x, out_type, pool);
    for (int64_t row = 0; row < rows;) {
      const int64_t count = std::min(rows - row, pick(random, 1, 40));
      const Tensor part = apply(layer, x.view().row_range(row, count), out_type, pool);
      EXPECT_TRUE(same_bits(part, whole.view().row_range(row, count)))
          << layer.c.name() << ", rows " << row << " + " << count << " of " << rows;
      row += count;
    }
  }
  EXPECT_GT(checked, 10);  // float64 at least
}

TEST(Linear, InfinityAndNanComeThrough) {
  Random random(7);
  ThreadPool pool(1);
  for (const DType compute : {DType::f32, DType::bf16, DType::f64}) {
    const Layer layer(random, {24, 10, compute, DType::f32, compute, false});
    Tensor values = Tensor::zeros(DType::f32, {1, 24});
    values.as<float>()[5] = std::numeric_limits<float>::infinity();
    const std::vector<double> y =
        as_double(apply(layer, converted(values, compute), compute, pool));
    for (size_t j = 0; j < y.size(); ++j) {
      EXPECT_TRUE(std::isinf(y[j])) << dtype_name(compute);
      EXPECT_EQ(y[j] > 0, layer.exact_weight[j * 24 + 5] > 0);
    }
  }
}

TEST(Linear, ReadsWeightsFromAnyAddress) {
  Random random(8);
  ThreadPool pool(1);
  for (const DType stored : {DType::f32, DType::bf16, DType::f16, DType::f64})
    for (const DType compute : {DType::f32, DType::bf16, DType::f64}) {
      const Tensor weight = random_tensor(random, stored, {30, 20});
      std::vector<std::byte> file(static_cast<size_t>(weight.num_bytes()) + 1);
      std::memcpy(file.data() + 1, weight.data(), static_cast<size_t>(weight.num_bytes()));
      const Linear aligned(weight, {}, compute);
      const Linear unaligned({file.data() + 1, stored, {30, 20}}, {}, compute);
      const Tensor x = random_tensor(random, compute, {5, 20});
      Tensor a(compute, {5, 30}), b(compute, {5, 30});
      aligned.apply(x, a, pool);
      unaligned.apply(x, b, pool);
      EXPECT_TRUE(same_bits(a, b)) << dtype_name(stored) << " in " << dtype_name(compute);
    }
}

TEST(Linear, AccountsItsWeightsAndWidensBlockByBlock) {
  Random random(9);
  const Tensor weight = random_tensor(random, DType::bf16, {2048, 512});
  const int64_t before = memory_figures(MemoryUse::weights).current_bytes;
  reset_memory_peaks();
  const int64_t activations = memory_figures(MemoryUse::activations).current_bytes;
  {
    const Linear linear(weight, {}, DType::f32);
    const int64_t held = memory_figures(MemoryUse::weights).current_bytes - before;
    EXPECT_GE(held, 4 * 2048 * 512);
    EXPECT_LE(held, 4 * 2048 * 512 * 11 / 10);
    const int64_t widened = memory_figures(MemoryUse::activations).peak_bytes - activations;
    EXPECT_LE(widened, 4 * 2048 * 512 / 4) << "a widened copy of the whole matrix";
  }
  EXPECT_EQ(memory_figures(MemoryUse::weights).current_bytes, before);
}

// Ranks that are threads of one process: each has its own layers and pool, at the same time.
TEST(Linear, ManyRanksInOneProcess) {
  std::vector<std::thread> ranks;
  std::vector<int> wrong(4, 0);
  for (size_t rank = 0; rank < wrong.size(); ++rank)
    ranks.emplace_back([rank, &wrong] {
      Random random(10);  // the same shapes in the same order: they meet in the table of kernels
      ThreadPool pool(2), single(1);
      for (int i = 0; i < 25; ++i) {
        const Layer layer(random, random_case(random, 90));
        const Tensor x = random_tensor(random, layer.c.compute, {pick(random, 1, 70), layer.c.in});
        const Tensor a = apply(layer, x, layer.c.compute, pool);
        const Tensor b = apply(layer, x, layer.c.compute, single);
        if (!same_bits(a, b)) ++wrong[rank];
      }
    });
  for (std::thread& t : ranks) t.join();
  for (const int w : wrong) EXPECT_EQ(w, 0);
}

TEST(Linear, TheLibraryStartsNoThreadsOfItsOwn) {
  const auto threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  Random random(11);
  const auto before = threads();
  ThreadPool pool(3);
  const Layer layer(random, {512, 1024, DType::f32, DType::f32, DType::f32, false});
  const Tensor x = random_tensor(random, DType::f32, {600, 512});
  (void)apply(layer, x, DType::f32, pool);
  EXPECT_EQ(threads(), before + 2);
}

TEST(Linear, RefusesWhatDoesNotFit) {
  Random random(12);
  ThreadPool pool(1);
  const Layer layer(random, {8, 6, DType::f32, DType::f32, DType::f32, false});
  Tensor x(DType::f32, {2, 8}), y(DType::f32, {2, 6}), narrow(DType::f32, {2, 5});
  Tensor other(DType::bf16, {2, 8});
  EXPECT_THROW(layer.linear.apply(x, narrow, pool), Error);
  EXPECT_THROW(layer.linear.apply(y, y, pool), Error);
  EXPECT_THROW(layer.linear.apply(other, y, pool), Error);
  EXPECT_THROW(Linear(x, y, DType::f32), Error);
  EXPECT_THROW(Linear(x, {}, DType::f16), Error);
  EXPECT_FALSE(Linear().defined());
}

}  // namespace
}  // namespace longhaul::ops
