// The benchmarks' check of sampled results: it accepts what the reference backend computes and
// notices what a kernel could get wrong.

#include "apps/bench_samples.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "attention/backends/reference.h"
#include "runtime/ops/elementwise.h"

namespace longhaul::apps {
namespace {

Tensor random_tensor(DType dtype, Shape shape, unsigned seed) {
  Tensor values(DType::f32, shape);
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < values.num_elements(); ++i) values.as<float>()[i] = normal(rng);
  Tensor result(dtype, shape);
  ops::convert(values, result);
  return result;
}

// One causal sequence of 40 keys whose last 10 are queries; 4 heads read 2 KV heads of 24.
struct Attention {
  static constexpr int64_t kKeys = 40, kQueries = 10, kHeads = 4, kKvHeads = 2, kDim = 24;
  DType dtype;
  double scale = 1 / std::sqrt(24.0);
  ThreadPool pool{1};
  Tensor q, kv, out, lse;
  std::vector<AttentionSample> samples;

  explicit Attention(DType type)
      : dtype(type),
        q(random_tensor(type, {kQueries, kHeads, kDim}, 1)),
        kv(random_tensor(type, {kKeys, 2 * kKvHeads * kDim}, 2)),
        out(type, {kQueries, kHeads, kDim}),
        lse(DType::f32, {kQueries, kHeads}) {
    const std::vector<attention::WorkItem> items = {{0, 0, kQueries, kKeys - kQueries, kKeys}};
    const auto* k = static_cast<const std::byte*>(kv.data());
    const int64_t width = 2 * kKvHeads * kDim;
    const std::vector<std::vector<attention::KvSegment>> segments = {
        {{0, kKeys, k, k + kKvHeads * kDim * dtype_size(type), width, width}}};
    Tensor exact(DType::f32, out.shape());
    const auto reference = attention::make_reference_backend();
    reference->prepare({type, kDim, kDim, true, false}, 1);
    reference->run({q, kKvHeads, items, segments, true, scale, exact, lse}, pool);
    ops::convert(exact, out);
    for (int64_t i = 0; i < kQueries; ++i)
      for (int64_t h = 0; h < kHeads; ++h) samples.push_back({i, h, 0, kKeys - kQueries + i + 1});
  }
  SampleErrors check() {
    return check_attention(samples, q, kv, kKvHeads, kDim, scale, out, lse, pool);
  }
};

TEST(BenchSamples, AttentionThatIsRightPasses) {
  for (DType dtype : {DType::bf16, DType::f32}) {
    Attention a(dtype);
    const SampleErrors e = a.check();
    EXPECT_EQ(e.count, Attention::kQueries * Attention::kHeads * Attention::kDim);
    EXPECT_LE(e.over_rms(), e.bound(5e-5)) << dtype_name(dtype);
    EXPECT_LT(e.lse_largest, 1e-5) << dtype_name(dtype);
    EXPECT_GT(e.plain, 0) << dtype_name(dtype);
  }
}

TEST(BenchSamples, ErrorsOfAttentionAreFound) {
  Attention a(DType::bf16);
  const double bound = a.check().bound(1e-3);
  // A key too few and one too many.
  for (int64_t more : {-1, 1}) {
    Attention b(DType::bf16);
    for (AttentionSample& s : b.samples)
      s.visible += s.visible + more <= Attention::kKeys ? more : 0;
    EXPECT_GT(b.check().over_rms(), bound) << more;
  }
  // The neighbour's KV head.
  Attention c(DType::bf16);
  for (AttentionSample& s : c.samples) s.head = (s.head + 2) % Attention::kHeads;
  const SampleErrors swapped = c.check();
  EXPECT_LE(swapped.over_rms(), swapped.bound(1e-3));  // each head is compared with its own
  std::swap(c.out.as<bf16>()[0], c.out.as<bf16>()[2 * Attention::kDim]);
  EXPECT_GT(c.check().over_rms(), bound);
  // What a kernel never wrote.
  Attention d(DType::bf16);
  d.out.as<bf16>()[5].bits = 0xffff;
  EXPECT_TRUE(std::isinf(d.check().over_rms()));
  d.lse.as<float>()[3] = NAN;
  EXPECT_TRUE(std::isinf(d.check().lse_largest));
}

TEST(BenchSamples, MergesOverRanks) {
  SampleErrors a{1, 0.5, 8, 2, 0.1}, b{3, 0.2, 8, 2, 0.05};
  a.add(b);
  EXPECT_EQ(a.rms(), 2);
  EXPECT_EQ(a.over_rms(), 1.5);
  EXPECT_EQ(a.bound(0), 0.5);
  EXPECT_EQ(a.bound(0.7), 0.7);
  EXPECT_EQ(a.lse_largest, 0.1);
  EXPECT_EQ(verdict(1.5, 0.5), "1.5e+00 > 5.0e-01 WRONG");
}

TEST(BenchSamples, ExpertsAgainstTheirFormula) {
  constexpr int64_t kHidden = 6, kIntermediate = 5;
  ThreadPool pool(1);
  const Tensor x = random_tensor(DType::f32, {kHidden}, 3);
  const Tensor gate_up = random_tensor(DType::f32, {2 * kIntermediate, kHidden}, 4);
  const Tensor down = random_tensor(DType::f32, {kHidden, kIntermediate}, 5);
  Tensor out(DType::f32, {kHidden});
  for (int64_t c = 0; c < kHidden; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < kIntermediate; ++i) {
      double gate = 0, up = 0;
      for (int64_t h = 0; h < kHidden; ++h) {
        gate += double{x.as<float>()[h]} * gate_up.as<float>()[i * kHidden + h];
        up += double{x.as<float>()[h]} * gate_up.as<float>()[(kIntermediate + i) * kHidden + h];
      }
      sum += gate / (1 + std::exp(-gate)) * up * down.as<float>()[c * kIntermediate + i];
    }
    out.as<float>()[c] = static_cast<float>(0.75 * sum);
  }
  const ExpertSample sample{x.data(), out.data(), {gate_up.data()}, {down.data()}, {0.75f}};
  const std::vector<int64_t> columns = {0, 3, 5};
  const auto check = [&] {
    return check_experts({sample}, columns, DType::f32, kHidden, kIntermediate, pool);
  };
  EXPECT_LT(check().over_rms(), 1e-6);
  out.as<float>()[3] += 0.01f;
  EXPECT_GT(check().over_rms(), check().bound(5e-5));
}

}  // namespace
}  // namespace longhaul::apps
