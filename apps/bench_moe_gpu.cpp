// longhaul bench moe on a GPU.

#include "apps/bench_moe.h"
#if LONGHAUL_HAS_CUDA
#include <algorithm>
#include <cmath>
#include <map>

#include "apps/bench_gpu.h"
#include "comm/affinity.h"
#include "comm/cuda/device_wait.h"
#include "moe/cuda/experts.h"
#include "moe/router.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/ops/cuda/machine_peak.h"
#include "runtime/ops/cuda/random.h"
#endif

namespace longhaul::apps {
#if LONGHAUL_HAS_CUDA
namespace {

using cuda::DeviceTensor;

constexpr float kWeightDeviation = 0.02f;  // as models begin
constexpr int64_t kSampledRows = 8, kSampledColumns = 64;
// The router's softmax in float32.
constexpr float kMostRouterError = 1e-5f;

DeviceTensor random_tensor(DType dtype, Shape shape, uint64_t key, float deviation,
                           const char* what, cudaStream_t stream) {
  DeviceTensor t(dtype, shape, what, MemoryUse::activations);
  ops::cuda::fill_random(t, key, 0, deviation, stream);
  return t;
}

Tensor to_host(ConstTensorView device) {
  Tensor host(device.dtype, device.shape);
  LH_CUDA(cudaMemcpy(host.data(), device.data, static_cast<size_t>(device.num_bytes()),
                     cudaMemcpyDeviceToHost));
  return host;
}

struct Weights {
  DeviceTensor gate_up, down;
  moe::cuda::ExpertShape shape;
  moe::cuda::Experts experts;

  Weights(const MoeBench& o, cudaStream_t stream)
      : gate_up(random_tensor(o.compute(), {o.experts, 2 * o.intermediate, o.hidden}, 11,
                              kWeightDeviation, "the experts' weights", stream)),
        down(random_tensor(o.compute(), {o.experts, o.hidden, o.intermediate}, 12, kWeightDeviation,
                           "the experts' weights", stream)),
        shape{o.experts, o.top_k, o.hidden, o.intermediate, true, o.compute()},
        experts(shape, gate_up, down) {}
};

// One number of tokens.
struct Problem {
  int64_t tokens;
  const Weights& weights;
  cudaStream_t stream;
  DeviceTensor x, logits, ids, scores, out;
  cuda::Buffer scratch;

  Problem(const MoeBench& o, const Weights& w, int64_t n, cudaStream_t s)
      : tokens(n),
        weights(w),
        stream(s),
        x(random_tensor(o.compute(), {n, o.hidden}, 13, 1, "the experts' input", s)),
        logits(random_tensor(DType::f32, {n, o.experts}, 14, 1, "the router's output", s)),
        ids(DType::i32, {n, o.top_k}, "the experts chosen", MemoryUse::activations),
        scores(DType::f32, {n, o.top_k}, "the experts' weights", MemoryUse::activations),
        out(o.compute(), {n, o.hidden}, "the experts' output", MemoryUse::activations),
        scratch(w.experts.scratch_bytes(n), "the experts' scratch", MemoryUse::activations) {}

  void route() { weights.experts.route(logits, ids, scores, stream); }
  void apply(const moe::cuda::Experts::Mark& mark = {}) {
    weights.experts.apply(x, ids, scores, out, false, scratch.data(), stream, mark);
  }
};

// The sampled rows' choice of experts against the host's.
bool routed_right(const Problem& p, const std::vector<int64_t>& rows, ThreadPool& pool) {
  const moe::cuda::ExpertShape& s = p.weights.shape;
  for (int64_t row : rows) {
    const Tensor logits = to_host(p.logits.view().row_range(row, 1));
    const Tensor ids = to_host(p.ids.view().row_range(row, 1));
    const Tensor scores = to_host(p.scores.view().row_range(row, 1));
    Tensor want_ids(DType::i32, {1, s.top_k}), want(DType::f32, {1, s.top_k});
    moe::route(logits, {s.num_experts, s.top_k, s.normalize}, want_ids, want, pool);
    for (int k = 0; k < s.top_k; ++k)
      if (ids.as<int32_t>()[k] != want_ids.as<int32_t>()[k] ||
          !(std::abs(scores.as<float>()[k] - want.as<float>()[k]) <= kMostRouterError))
        return false;
  }
  return true;
}

void check(Problem& p, comm::MpiSession& session, MoeFigures& figures) {
  const moe::cuda::ExpertShape& s = p.weights.shape;
  LH_CUDA(
      cudaMemsetAsync(p.out.view().data, 0xff, static_cast<size_t>(p.out.num_bytes()), p.stream));
  p.route();
  p.apply();
  comm::cuda::wait_stream(session.world(), p.stream, {"bench"});
  ThreadPool pool(std::min(8, comm::gather_core_shares(session).default_threads()),
                  &session.progress());
  std::vector<int64_t> rows, columns;
  const int64_t count = std::min(kSampledRows, p.tokens);
  for (int64_t i = 0; i < count; ++i)
    rows.push_back(count == 1 ? 0 : i * (p.tokens - 1) / (count - 1));
  for (int64_t i = 0; i < std::min(kSampledColumns, s.hidden); ++i)
    columns.push_back(i * (s.hidden - 1) / std::max<int64_t>(kSampledColumns - 1, 1));
  figures.routed_right = routed_right(p, rows, pool);

  std::map<int32_t, std::pair<Tensor, Tensor>> experts;  // those chosen, copied once
  std::vector<Tensor> kept;
  std::vector<ExpertSample> samples;
  for (int64_t row : rows) {
    ExpertSample sample;
    const Tensor ids = to_host(p.ids.view().row_range(row, 1));
    const Tensor scores = to_host(p.scores.view().row_range(row, 1));
    for (int k = 0; k < s.top_k; ++k) {
      const int32_t id = ids.as<int32_t>()[k];
      LH_CHECK(id >= 0 && id < s.num_experts, "expert {} of {}", id, s.num_experts);
      if (!experts.contains(id))
        experts.emplace(id, std::pair{to_host(p.weights.gate_up.view().row_range(id, 1)),
                                      to_host(p.weights.down.view().row_range(id, 1))});
      sample.gate_up.push_back(experts.at(id).first.data());
      sample.down.push_back(experts.at(id).second.data());
      sample.weights.push_back(scores.as<float>()[k]);
    }
    kept.push_back(to_host(p.x.view().row_range(row, 1)));
    sample.x = kept.back().data();
    kept.push_back(to_host(p.out.view().row_range(row, 1)));
    sample.out = kept.back().data();
    samples.push_back(std::move(sample));
  }
  figures.errors = check_experts(samples, columns, s.dtype, s.hidden, s.intermediate, pool);
}

MoeFigures measure(const MoeBench& o, Problem& p, Pace pace, comm::MpiSession& session) {
  const GpuClock clock(session.world(), p.stream, o.repeat);
  MoeFigures f;
  f.tokens = p.tokens;
  f.pace = pace_name(pace);
  const double pairs = static_cast<double>(p.tokens) * o.top_k;
  const double product = pairs * o.product_flops();
  const auto add = [&](const char* name, const GpuTiming& t, double flops) {
    f.parts.push_back({name, t.median, t.min, flops});
  };
  const GpuTiming route = clock.time(pace, [&] { p.route(); });
  const auto parts = clock.time_parts(
      pace, 4, [&](const GpuClock::Mark& mark) { p.apply([&](const char*) { mark(); }); });
  const GpuTiming block = clock.time(pace, [&] {
    p.route();
    p.apply();
  });
  f.ceiling = ops::cuda::matmul_ceiling(p.stream);
  add("route", route, 0);
  add("permute", parts[0], 0);
  add("gate_up", parts[1], product * 2 / 3);
  add("down", parts[2], product / 3);
  add("combine", parts[3], 0);
  add("block", block, product);
  return f;
}

}  // namespace

MoeResult bench_moe_gpu(const MoeBench& bench, comm::MpiSession& session) {
  if (bench.compute() != DType::bf16 && bench.compute() != DType::f32)
    fail(ExitCode::usage, "--dtype {}: GPUs compute in bf16 or f32", bench.dtype);
  MoeResult result;
  result.device = cuda::current_device().name;
  const cuda::Stream stream;
  const Weights weights(bench, stream);
  result.kernel = weights.experts.kernel();
  std::vector<int64_t> counts = bench.tokens;
  if (counts.empty()) counts = {4096, 16384, 65536};
  for (const int64_t tokens : counts) {
    Problem problem(bench, weights, tokens, stream);
    MoeFigures checked;
    check(problem, session, checked);
    for (Pace pace : parse_pace(bench.pace)) {
      MoeFigures f = measure(bench, problem, pace, session);
      f.errors = checked.errors;
      f.routed_right = checked.routed_right;
      result.figures.push_back(std::move(f));
    }
  }
  return result;
}
#else
MoeResult bench_moe_gpu(const MoeBench&, comm::MpiSession&) {
  fail(ExitCode::usage, "GPUs are not built into this longhaul; build it where nvcc is");
}
#endif

}  // namespace longhaul::apps
