// Rotary embedding: frequencies against transformers' own numbers (tests/data/rope), rotation
// against complex multiplication.
#include "runtime/ops/rope.h"

#include <gtest/gtest.h>

#include <complex>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/ops/ops_test_support.h"

namespace longhaul::ops {
namespace {

using namespace test;
using nlohmann::json;

RopeParameters parameters_of(const json& given, double longest) {
  RopeParameters p;
  const std::string type = given.at("rope_type");
  p.type = type == "llama3" ? RopeType::llama3
           : type == "yarn" ? RopeType::yarn
                            : RopeType::standard;
  const auto read = [&](const char* key, double& field) {
    if (given.contains(key) && !given[key].is_null()) field = given[key];
  };
  read("rope_theta", p.theta);
  read("factor", p.factor);
  read("low_freq_factor", p.low_freq_factor);
  read("high_freq_factor", p.high_freq_factor);
  read("original_max_position_embeddings", p.original_max_position_embeddings);
  read("beta_fast", p.beta_fast);
  read("beta_slow", p.beta_slow);
  read("mscale", p.mscale);
  read("mscale_all_dim", p.mscale_all_dim);
  read("attention_factor", p.attention_factor);
  p.truncate = given.value("truncate", true);
  p.max_position_embeddings = longest;
  return p;
}

TEST(Rope, FrequenciesAreTransformers) {
  std::ifstream file(LONGHAUL_TEST_DATA "/rope/cases.json");
  ASSERT_TRUE(file.good());
  const json cases = json::parse(file).at("cases");
  ASSERT_GE(cases.size(), 15u);
  for (const json& c : cases) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    const Rope rope(parameters_of(c.at("parameters"), c.at("max_position_embeddings")),
                    c.at("head_dim"));
    const json& expected = c.at("inverse_frequencies");
    ASSERT_EQ(rope.inverse_frequencies().size(), expected.size());
    // The same formulas in the same precision; a power and a handful of roundings in other order.
    for (size_t i = 0; i < expected.size(); ++i) {
      const double value = expected[i];
      EXPECT_NEAR(rope.inverse_frequencies()[i], value, 16 * kUnit64 * value) << i;
    }
    EXPECT_NEAR(rope.attention_scaling(), c.at("attention_scaling").get<double>(), 8 * kUnit64);
  }
}

TEST(Rope, TablesAreExactAtFarPositions) {
  RopeParameters p;
  p.type = RopeType::yarn;
  p.factor = 4;
  p.original_max_position_embeddings = 4096;
  const Rope rope(p, 64);
  ThreadPool pool(3);
  Random random(1);
  std::vector<int64_t> positions = {0, 1, 131071, 1'000'000, int64_t{1} << 40};
  for (int i = 0; i < 200; ++i) positions.push_back(pick(random, 0, 10'000'000));
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Rope::Table table = rope.table(positions, dtype, pool);
    EXPECT_EQ(table.cos.dtype(), accumulator_dtype(dtype));
    const std::vector<double> cos = as_double(table.cos), sin = as_double(table.sin);
    // One rounding of the sine or cosine, one of the product, one to the table's type.
    const double bound = 2 * unit_of(accumulator_dtype(dtype)) * rope.attention_scaling();
    for (size_t r = 0; r < positions.size(); ++r)
      for (size_t i = 0; i < 32; ++i) {
        const double angle = static_cast<double>(positions[r]) * rope.inverse_frequencies()[i];
        EXPECT_NEAR(cos[r * 32 + i], std::cos(angle) * rope.attention_scaling(), bound);
        EXPECT_NEAR(sin[r * 32 + i], std::sin(angle) * rope.attention_scaling(), bound);
      }
  }
}

TEST(Rope, RotatesHalves) {
  Random random(2);
  ThreadPool one(1), three(3);
  for (int i = 0; i < 600; ++i) {
    const DType dtype = i % 3 == 0 ? DType::f64 : i % 3 == 1 ? DType::f32 : DType::bf16;
    const int64_t half = pick(random, 1, i % 20 == 0 ? 128 : 40);
    const int64_t rows = pick(random, 0, 12), heads = pick(random, 1, 6);
    const Rope rope({}, 2 * half);
    std::vector<int64_t> positions(static_cast<size_t>(rows));
    for (int64_t& position : positions) position = pick(random, 0, 200'000);
    const Rope::Table table = rope.table(positions, dtype, one);
    const std::vector<double> cos = as_double(table.cos), sin = as_double(table.sin);
    Tensor x = random_tensor(random, dtype, {rows, heads, 2 * half});
    const std::vector<double> before = as_double(x);
    Tensor split = converted(x, dtype);
    Rope::apply(table, x, one);
    Rope::apply(table, split, three);
    EXPECT_EQ(std::memcmp(x.data(), split.data(), static_cast<size_t>(x.num_bytes())), 0);
    const std::vector<double> after = as_double(x);
    const double unit = unit_of(accumulator_dtype(dtype));
    for (int64_t v = 0; v < rows * heads; ++v)
      for (int64_t k = 0; k < half; ++k) {
        const auto a = static_cast<size_t>(v * 2 * half + k), b = a + static_cast<size_t>(half);
        const auto t = static_cast<size_t>(v / heads * half + k);
        const std::complex<double> turned =
            std::complex(before[a], before[b]) * std::complex(cos[t], sin[t]);
        // Two products and a sum: at most two roundings of either part's magnitude.
        double bound = 2 * unit * (std::abs(before[a]) + std::abs(before[b])) + kSmallest32;
        if (dtype == DType::bf16)
          bound += kUnitBf16 * (std::abs(before[a]) + std::abs(before[b]) + bound);
        EXPECT_NEAR(after[a], turned.real(), bound);
        EXPECT_NEAR(after[b], turned.imag(), bound);
      }
    if (HasFailure()) return;
  }
}

// What the embedding is for: the product of two turned vectors depends on their distance alone.
TEST(Rope, DotProductsDependOnTheDistance) {
  Random random(3);
  ThreadPool pool(1);
  const Rope rope({}, 64);
  const Tensor q = random_tensor(random, DType::f64, {1, 1, 64});
  const Tensor k = random_tensor(random, DType::f64, {1, 1, 64});
  const auto dot_at = [&](int64_t query, int64_t key) {
    Tensor a = converted(q, DType::f64), b = converted(k, DType::f64);
    Rope::apply(rope.table(std::vector<int64_t>{query}, DType::f64, pool), a, pool);
    Rope::apply(rope.table(std::vector<int64_t>{key}, DType::f64, pool), b, pool);
    double sum = 0;
    for (int64_t i = 0; i < 64; ++i) sum += a.as<double>()[i] * b.as<double>()[i];
    return sum;
  };
  const double expected = dot_at(57, 0);
  for (const int64_t shift : {1, 1000, 100'000})
    // An angle of up to 1e5 carries an error of 1e5 units, and 64 products of normal values add up.
    EXPECT_NEAR(dot_at(57 + shift, shift), expected, 1e5 * kUnit64 * 64 * 8);
}

TEST(Rope, RefusesWhatCannotBe) {
  EXPECT_THROW(Rope({}, 7), Error);
  EXPECT_THROW(Rope({}, 0), Error);
  RopeParameters p;
  p.theta = 0;
  EXPECT_THROW(Rope(p, 8), Error);
  p = {};
  p.type = RopeType::llama3;
  p.factor = 8;
  EXPECT_THROW(Rope(p, 8), Error) << "no original context";
  p.original_max_position_embeddings = 64;
  EXPECT_NO_THROW(Rope(p, 8));
  p.factor = 0;
  EXPECT_THROW(Rope(p, 8), Error);
  p = {};
  p.type = RopeType::yarn;
  p.original_max_position_embeddings = 64;
  EXPECT_THROW(Rope(p, 8), Error) << "neither factor nor max_position_embeddings";
  p.max_position_embeddings = 128;
  EXPECT_NO_THROW(Rope(p, 8));
  ThreadPool pool(1);
  const Rope rope({}, 8);
  const Rope::Table table = rope.table(std::vector<int64_t>{1, 2}, DType::f32, pool);
  Tensor wrong_rows(DType::f32, {3, 1, 8}), wrong_type(DType::f64, {2, 1, 8});
  EXPECT_THROW(Rope::apply(table, wrong_rows, pool), Error);
  EXPECT_THROW(Rope::apply(table, wrong_type, pool), Error);
}

}  // namespace
}  // namespace longhaul::ops
