// Routing on a GPU against moe::route() on the same logits: the ids are equal.

#include "moe/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/gpu/moe/experts_problem.h"

namespace longhaul::test {
namespace {

enum class Logits { normal, ties, special };

std::vector<float> make_logits(size_t count, Logits kind, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.f, 3.f);
  std::vector<float> all(count);
  for (float& x : all) {
    x = normal(random);
    if (kind != Logits::normal) x = std::round(x);  // -0 among them
    if (kind == Logits::special) {
      const auto dice = static_cast<int>(random() % 40);
      if (dice == 0) x = std::numeric_limits<float>::quiet_NaN();
      if (dice == 1) x = std::numeric_limits<float>::infinity();
      if (dice < 12) x = -std::numeric_limits<float>::infinity();
    }
  }
  return all;
}

TEST(RouterTest, ChoosesWhatTheCpuChooses) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
  ThreadPool pool(1);
  uint32_t seed = 0;
  for (const int num_experts : {1, 3, 8, 32, 33, 60, 64, 100, 128, 160, 256, 257, 512, 1024}) {
    for (const int top_k : {1, 2, 8, 32}) {
      if (top_k > num_experts) continue;
      for (const Logits kind : {Logits::normal, Logits::ties, Logits::special}) {
        const bool normalize = ++seed % 2 == 0;
        const int64_t rows = seed % 3 == 0 ? 1 : 203;
        const moe::cuda::ExpertShape s{num_experts, top_k, 8, 8, normalize, DType::bf16};
        ExpertsProblem p(s, rows, "portable", seed);
        std::vector<float> logits =
            make_logits(static_cast<size_t>(rows * num_experts), kind, seed);
        const DeviceBuffer<float> on_device(logits);
        p.ids.fill_byte(0xff);
        p.weights.fill_byte(0xff);
        p.experts->route({on_device.get(), DType::f32, {rows, num_experts}},
                         {p.ids.get(), DType::i32, {rows, top_k}},
                         {p.weights.get(), DType::f32, {rows, top_k}}, nullptr);

        std::vector<int32_t> ids(static_cast<size_t>(rows * top_k));
        std::vector<float> weights(ids.size());
        moe::route({logits.data(), DType::f32, {rows, num_experts}},
                   {num_experts, top_k, normalize}, {ids.data(), DType::i32, {rows, top_k}},
                   {weights.data(), DType::f32, {rows, top_k}}, pool);
        ASSERT_EQ(p.ids.to_host(), ids) << num_experts << " experts, top " << top_k;
        const std::vector<float> got = p.weights.to_host();
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(std::isnan(got[i]), std::isnan(weights[i])) << i;
          // Either sum of num_experts exponentials (2 ulp each) is off by at most a unit roundoff
          // per term, and so is the sum of the weights.
          const double bound = (2 * num_experts + 2 * top_k + 16) * 0x1p-24;
          if (!std::isnan(got[i])) {
            ASSERT_NEAR(got[i], weights[i], bound * weights[i] + 1e-37) << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::test
