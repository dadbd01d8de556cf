// longhaul bench moe on one CPU rank.

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include "apps/bench_moe.h"
#include "moe/experts.h"
#include "moe/router.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/machine_peak.h"

namespace longhaul::apps {
namespace {

constexpr int64_t kSampledRows = 4, kSampledColumns = 32;

Tensor random_tensor(DType dtype, Shape shape, uint64_t seed, float deviation) {
  Tensor values(DType::f32, shape);
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, deviation);
  for (int64_t i = 0; i < values.num_elements(); ++i) values.as<float>()[i] = normal(rng);
  Tensor result(dtype, shape);
  ops::convert(values, result);
  return result;
}

// Random numbers enough for one matrix, each expert's being another stretch of them.
struct Weights {
  std::vector<Tensor> gate_up, down;
  std::vector<moe::Expert> experts;

  explicit Weights(const MoeBench& o) {
    for (int e = 0; e < o.experts; ++e) {
      const auto seed = 1000 + 2 * static_cast<uint64_t>(e);
      gate_up.push_back(random_tensor(o.compute(), {2 * o.intermediate, o.hidden}, seed, 0.02f));
      down.push_back(random_tensor(o.compute(), {o.hidden, o.intermediate}, seed + 1, 0.02f));
      experts.push_back({ops::Linear(gate_up.back(), {}, o.compute()),
                         ops::Linear(down.back(), {}, o.compute())});
    }
  }
};

Timing seconds_of(int repeat, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> samples;
  for (int i = 0; i < repeat; ++i) {
    const auto begin = Clock::now();
    call();
    samples.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return summarise(samples);
}

double peak(DType dtype, int threads) {
  const ops::MachinePeak p = ops::measure_machine_peak(threads, 0.1);
  return dtype == DType::bf16 && p.bf16_dot_flops > 0 ? p.bf16_dot_flops : p.f32_fma_flops;
}

}  // namespace

MoeResult bench_moe_cpu(const MoeBench& o) {
  if (o.compute() == DType::f64)
    fail(ExitCode::usage, "--dtype f64: bench moe checks bf16 and f32 only");
  ThreadPool pool(o.threads);
  Weights weights(o);
  const moe::Experts experts(std::move(weights.experts), o.compute());
  MoeResult result;
  result.kernel = "cpu";
  const int repeat = o.repeat > 0 ? o.repeat : 3;
  std::vector<int64_t> counts = o.tokens;
  if (counts.empty()) counts = {512};
  for (const int64_t tokens : counts) {
    const Tensor x = random_tensor(o.compute(), {tokens, o.hidden}, 13, 1);
    const Tensor logits = random_tensor(DType::f32, {tokens, o.experts}, 14, 1);
    Tensor ids(DType::i32, {tokens, o.top_k}), scores(DType::f32, {tokens, o.top_k});
    Tensor out(o.compute(), {tokens, o.hidden});
    const moe::RouterConfig router{o.experts, o.top_k, true};
    const auto route = [&] { moe::route(logits, router, ids, scores, pool); };
    const auto apply = [&] { experts.apply(x, ids, scores, out, pool); };
    route();
    apply();
    MoeFigures f;
    f.tokens = tokens;
    f.pace = "back to back";
    const double before = peak(o.compute(), o.threads);
    const Timing route_time = seconds_of(repeat, route);
    const Timing block = seconds_of(repeat, [&] {
      route();
      apply();
    });
    f.ceiling = std::max(before, peak(o.compute(), o.threads));
    f.parts.push_back({"route", 1e3 * route_time.median, 1e3 * route_time.min, 0});
    f.parts.push_back({"block", 1e3 * block.median, 1e3 * block.min,
                       static_cast<double>(tokens * o.top_k) * o.product_flops()});

    std::vector<int64_t> columns;
    for (int64_t i = 0; i < std::min(kSampledColumns, o.hidden); ++i)
      columns.push_back(i * (o.hidden - 1) / (kSampledColumns - 1));
    std::vector<ExpertSample> samples;
    for (int64_t i = 0; i < std::min(kSampledRows, tokens); ++i) {
      const int64_t row = i * (tokens - 1) / (kSampledRows - 1);
      ExpertSample sample;
      sample.x = x.view().row_range(row, 1).data;
      sample.out = static_cast<const Tensor&>(out).view().row_range(row, 1).data;
      for (int k = 0; k < o.top_k; ++k) {
        const auto id = static_cast<size_t>(ids.as<int32_t>()[row * o.top_k + k]);
        sample.gate_up.push_back(weights.gate_up[id].data());
        sample.down.push_back(weights.down[id].data());
        sample.weights.push_back(scores.as<float>()[row * o.top_k + k]);
      }
      samples.push_back(std::move(sample));
    }
    f.errors = check_experts(samples, columns, o.compute(), o.hidden, o.intermediate, pool);
    result.figures.push_back(std::move(f));
  }
  return result;
}

}  // namespace longhaul::apps
