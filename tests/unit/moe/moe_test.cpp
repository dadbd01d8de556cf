#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "moe/dispatch_plan.h"
#include "moe/experts.h"
#include "moe/router.h"

namespace longhaul::moe {
namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

Routed route_one(std::vector<double> logits, int top_k, bool normalize) {
  ThreadPool pool(1);
  const auto n = static_cast<int64_t>(logits.size());
  Tensor in(DType::f64, {1, n}), weights(DType::f64, {1, top_k}), ids(DType::i32, {1, top_k});
  std::copy(logits.begin(), logits.end(), in.as<double>());
  route(in, {static_cast<int>(n), top_k, normalize}, ids, weights, pool);
  return {{ids.as<int32_t>(), ids.as<int32_t>() + top_k},
          {weights.as<double>(), weights.as<double>() + top_k}};
}

TEST(Router, SoftmaxOverAllThenTopK) {
  const Routed r =
      route_one({std::log(1.0), std::log(2.0), std::log(5.0), std::log(2.0)}, 2, false);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{2, 1}));
  EXPECT_NEAR(r.weights[0], 0.5, 1e-15);
  EXPECT_NEAR(r.weights[1], 0.2, 1e-15);
}

TEST(Router, NormalizedWeightsSumToOne) {
  const Routed r = route_one({std::log(1.0), std::log(2.0), std::log(5.0), std::log(2.0)}, 2, true);
  EXPECT_NEAR(r.weights[0], 5.0 / 7, 1e-15);
  EXPECT_NEAR(r.weights[1], 2.0 / 7, 1e-15);
}

TEST(Router, TiesGoToTheLowerExpert) {
  EXPECT_EQ(route_one({1, 1, 1, 1, 1}, 3, true).ids, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(route_one({0, 7, 3, 7, 7}, 2, true).ids, (std::vector<int32_t>{1, 3}));
}

TEST(Router, NanLosesAndShows) {
  const double nan = std::nan("");
  const Routed r = route_one({nan, 1, 2, nan}, 2, true);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{2, 1}));
  EXPECT_TRUE(std::isnan(r.weights[0]));
  EXPECT_EQ(route_one({nan, nan, nan}, 2, false).ids, (std::vector<int32_t>{0, 1}));
}

TEST(Router, HugeLogitsDoNotOverflow) {
  const Routed r = route_one({1e300, -1e300, 1e300}, 2, false);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(r.weights[0], 0.5);
}

TEST(DispatchPlan, GroupsEveryChoiceOnceInRowOrder) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    const int experts = 1 + static_cast<int>(rng() % 17);
    const int top_k = 1 + static_cast<int>(rng() % static_cast<unsigned>(experts));
    const auto rows = static_cast<int64_t>(rng() % 40);
    Tensor ids(DType::i32, {rows, top_k});
    std::vector<int32_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t r = 0; r < rows; ++r) {
      std::shuffle(order.begin(), order.end(), rng);
      std::copy_n(order.begin(), top_k, ids.as<int32_t>() + r * top_k);
    }
    const DispatchPlan plan = make_dispatch_plan(ids, experts);
    ASSERT_EQ(plan.expert_begin.back(), rows * top_k);
    for (int e = 0; e < experts; ++e)
      for (int64_t i = plan.expert_begin[static_cast<size_t>(e)];
           i < plan.expert_begin[static_cast<size_t>(e) + 1]; ++i) {
        const auto at = static_cast<size_t>(i);
        ASSERT_EQ(ids.as<int32_t>()[plan.row[at] * top_k + plan.slot[at]], e);
        if (i > plan.expert_begin[static_cast<size_t>(e)]) {
          ASSERT_LT(plan.row[at - 1], plan.row[at]);
        }
      }
  }
}

// Against a direct evaluation in double, expert by expert.
TEST(Experts, WeightedSumOfSwiGluMlps) {
  std::mt19937 rng(2);
  std::normal_distribution<double> normal;
  ThreadPool pool(2);
  for (int round = 0; round < 60; ++round) {
    const int num_experts = 1 + static_cast<int>(rng() % 6),
              top_k = 1 + static_cast<int>(rng() % static_cast<unsigned>(num_experts));
    const int64_t hidden = 1 + static_cast<int64_t>(rng() % 20),
                  inter = 1 + static_cast<int64_t>(rng() % 12);
    const auto rows = static_cast<int64_t>(rng() % 30);
    auto fill = [&](Tensor& t) {
      for (int64_t i = 0; i < t.num_elements(); ++i) t.as<double>()[i] = normal(rng);
    };
    std::vector<Tensor> gate_up, down;
    std::vector<Expert> experts;
    for (int e = 0; e < num_experts; ++e) {
      gate_up.emplace_back(DType::f64, Shape{2 * inter, hidden});
      down.emplace_back(DType::f64, Shape{hidden, inter});
      fill(gate_up.back());
      fill(down.back());
      experts.push_back(
          {ops::Linear(gate_up.back(), {}, DType::f64), ops::Linear(down.back(), {}, DType::f64)});
    }
    Tensor x(DType::f64, {rows, hidden}), out(DType::f64, {rows, hidden});
    Tensor ids(DType::i32, {rows, top_k}), weights(DType::f64, {rows, top_k});
    fill(x);
    fill(weights);
    std::vector<int32_t> order(static_cast<size_t>(num_experts));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t r = 0; r < rows; ++r) {
      std::shuffle(order.begin(), order.end(), rng);
      std::copy_n(order.begin(), top_k, ids.as<int32_t>() + r * top_k);
    }
    Experts(std::move(experts), DType::f64).apply(x, ids, weights, out, pool);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < hidden; ++j) {
        double expected = 0, size = 0;
        for (int k = 0; k < top_k; ++k) {
          const auto e = static_cast<size_t>(ids.as<int32_t>()[r * top_k + k]);
          for (int64_t i = 0; i < inter; ++i) {
            double g = 0, u = 0;
            for (int64_t h = 0; h < hidden; ++h) {
              g += gate_up[e].as<double>()[i * hidden + h] * x.as<double>()[r * hidden + h];
              u += gate_up[e].as<double>()[(inter + i) * hidden + h] *
                   x.as<double>()[r * hidden + h];
            }
            const double term = weights.as<double>()[r * top_k + k] * (g / (1 + std::exp(-g)) * u) *
                                down[e].as<double>()[j * inter + i];
            expected += term;
            size += std::abs(term);
          }
        }
        // A few hundred roundings of 1.1e-16 each, of terms whose sizes add up to `size`.
        ASSERT_NEAR(out.as<double>()[r * hidden + j], expected, 1e-13 * (size + 1e-3));
      }
  }
}

}  // namespace
}  // namespace longhaul::moe
