// longhaul bench attention on CPU cores: one backend on one rank, against the ceilings of the same
// run.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "apps/bench_attention.h"
#include "attention/backends/reference.h"
#include "attention/registry.h"
#include "runtime/ops/machine_peak.h"

namespace longhaul::apps {
namespace {

using attention::AttentionArgs;
using attention::AttentionDesc;
using attention::KvSegment;
using attention::WorkItem;

using Options = AttentionBench;

// A batch of sequences in flat tensors: [prefix | new] tokens of every sequence as keys, the new
// ones as queries.
struct Batch {
  DType dtype;
  int64_t heads = 0, kv_heads = 0, dim = 0;
  bool causal = true;
  Tensor q, k, v, out, lse;
  std::vector<WorkItem> items;
  std::vector<std::vector<KvSegment>> kv;
  double flops = 0;

  AttentionArgs args() {
    return {q, kv_heads, items, kv, causal, 1 / std::sqrt(static_cast<double>(dim)), out, lse};
  }
};

void fill_random(Tensor& tensor, std::mt19937_64& rng) {
  std::normal_distribution<float> normal;
  dispatch_float(tensor.dtype(), [&](auto t) {
    using T = decltype(t);
    T* data = tensor.as<T>();
    for (int64_t i = 0; i < tensor.num_elements(); ++i) data[i] = static_cast<T>(normal(rng));
  });
}

Batch make_batch(const Options& o) {
  Batch b;
  b.dtype = o.compute();
  b.dim = o.head_dim;
  b.causal = o.causal();
  const Heads heads = parse_heads(o.heads);
  b.heads = heads.query;
  b.kv_heads = heads.kv;
  int64_t queries = 0, keys = 0;
  for (const layout::SequenceExtent& e : o.extents()) {
    b.items.push_back(
        {static_cast<int>(b.items.size()), queries, e.extend, e.prefix, e.prefix + e.extend});
    queries += e.extend;
    keys += e.prefix + e.extend;
    const auto t = static_cast<double>(e.extend), p = static_cast<double>(e.prefix);
    const double area = b.causal ? t * p + t * (t + 1) / 2 : t * (p + t);
    b.flops += 4 * static_cast<double>(b.heads * b.dim) * area;
  }
  std::mt19937_64 rng(20260);
  b.q = Tensor(b.dtype, {queries, b.heads, b.dim});
  b.k = Tensor(b.dtype, {keys, b.kv_heads, b.dim});
  b.v = Tensor(b.dtype, {keys, b.kv_heads, b.dim});
  b.out = Tensor(accumulator_dtype(b.dtype), {queries, b.heads, b.dim});
  b.lse = Tensor(accumulator_dtype(b.dtype), {queries, b.heads});
  for (Tensor* t : {&b.q, &b.k, &b.v}) fill_random(*t, rng);
  int64_t row = 0;
  for (const WorkItem& w : b.items) {
    const int64_t stride = b.kv_heads * b.dim;
    b.kv.push_back({{0, w.kv_length, b.k.view().row_range(row, w.kv_length).data,
                     b.v.view().row_range(row, w.kv_length).data, stride, stride}});
    row += w.kv_length;
  }
  return b;
}

// Largest |difference| to the reference over a sample of rows, over the sample's RMS.
double sampled_error(Batch& b, ThreadPool& pool) {
  constexpr int64_t kRows = 24;
  AttentionArgs args = b.args();
  std::vector<WorkItem> sample;
  std::mt19937_64 rng(7);
  for (int64_t i = 0; i < kRows; ++i) {
    const WorkItem& w = b.items[rng() % b.items.size()];
    // The first and last rows, where masks go wrong first, then any.
    const int64_t at = i == 0   ? 0
                       : i == 1 ? w.q_length - 1
                                : static_cast<int64_t>(rng() % static_cast<uint64_t>(w.q_length));
    const bool twice = std::any_of(sample.begin(), sample.end(),
                                   [&](const WorkItem& s) { return s.q_row == w.q_row + at; });
    if (twice) continue;
    sample.push_back({w.sequence, w.q_row + at, 1, w.q_position + at,
                      b.causal ? w.q_position + at + 1 : w.kv_length});
  }
  Tensor out(b.out.dtype(), b.out.shape()), lse(b.lse.dtype(), b.lse.shape());
  args.items = sample;
  args.out = out;
  args.lse = lse;
  const auto reference = attention::make_reference_backend();
  reference->prepare({b.dtype, b.dim, b.dim, b.causal, false}, pool.num_threads());
  reference->run(args, pool);
  double most = 0, squares = 0, count = 0;
  dispatch_float(b.out.dtype(), [&](auto t) {
    using T = decltype(t);
    for (const WorkItem& w : sample)
      for (int64_t j = w.q_row * b.heads * b.dim; j < (w.q_row + 1) * b.heads * b.dim; ++j) {
        if constexpr (!std::is_same_v<T, bf16>) {
          const double want = out.as<T>()[j];
          const double off = std::abs(want - b.out.as<T>()[j]);
          most = off > most || std::isnan(off) ? off : most;
          squares += want * want;
          count += 1;
        }
      }
  });
  return most / std::sqrt(squares / count);
}

double process_cpu_seconds() {
  return static_cast<double>(std::clock()) / static_cast<double>(CLOCKS_PER_SEC);
}

ops::MachinePeak better(const ops::MachinePeak& a, const ops::MachinePeak& b) {
  return {std::max(a.f32_fma_flops, b.f32_fma_flops), std::max(a.bf16_dot_flops, b.bf16_dot_flops)};
}

struct Figures {
  std::string_view backend;
  ops::MachinePeak peak;
  double ceiling = 0;  // FLOP/s of the dtype
  Timing wall;
  // CPU time over threads and wall time. Below 1 the machine gave its cores to others, or threads
  // waited for each other: the ratio is then no measure of the kernel.
  double busy = 0;
  double error = 0;
  double ratio(const Batch& b) const { return b.flops / wall.median / ceiling; }
};

std::string table(const Options& o, const Batch& b, const Figures& f) {
  const ops::MachinePeak& peak = f.peak;
  std::string text;
  auto to = std::back_inserter(text);
  fmt::format_to(
      to, "# longhaul bench attention: backend {}, {}, heads {}, head dim {}, {}, {} thread{}\n",
      f.backend, o.dtype, o.heads, o.head_dim, b.causal ? "causal" : "not causal", o.threads,
      o.threads == 1 ? "" : "s");
  fmt::format_to(
      to, "# instruction set {}; ceilings measured before, between and after the repetitions:\n",
      ops::cpu_isa_name());
  fmt::format_to(to, "#   float32 multiply-add {:8.1f} GFLOP/s\n", peak.f32_fma_flops / 1e9);
  if (peak.bf16_dot_flops > 0)
    fmt::format_to(to, "#   bf16 dot product     {:8.1f} GFLOP/s\n", peak.bf16_dot_flops / 1e9);
  else
    fmt::format_to(to, "#   bf16 dot product     not on this CPU\n");
  fmt::format_to(
      to,
      "# flops counted over the exact causal area; error: largest difference to the reference "
      "backend over its RMS, sampled rows\n");
  fmt::format_to(to, "#{:>9} {:>10} {:>10} {:>10} {:>10} {:>9} {:>7} {:>6} {:>10}\n", "tokens",
                 "keys", "median ms", "min ms", "max ms", "GFLOP/s", "ratio", "busy", "error");
  fmt::format_to(
      to, "{:>10} {:>10} {:>10.2f} {:>10.2f} {:>10.2f} {:>9.1f} {:>7.3f} {:>6.2f} {:>10.2e}\n",
      b.q.rows(), b.k.rows(), f.wall.median * 1e3, f.wall.min * 1e3, f.wall.max * 1e3,
      b.flops / f.wall.median / 1e9, f.ratio(b), f.busy, f.error);
  if (f.busy < 0.95)
    fmt::format_to(
        to,
        "# the threads had their cores for {:.0f} % of the time: per CPU time the ratio is "
        "{:.3f}\n",
        f.busy * 100, f.ratio(b) / f.busy);
  return text;
}

std::string json(const Options& o, const Batch& b, const Figures& f) {
  nlohmann::ordered_json j;
  j["bench"] = "attention";
  j["backend"] = f.backend;
  j["dtype"] = o.dtype;
  j["heads"] = b.heads;
  j["kv_heads"] = b.kv_heads;
  j["head_dim"] = b.dim;
  j["causal"] = b.causal;
  j["threads"] = o.threads;
  j["lengths"] = o.lengths;
  j["prefix"] = o.prefix;
  j["peak_f32_gflops"] = f.peak.f32_fma_flops / 1e9;
  j["peak_bf16_gflops"] = f.peak.bf16_dot_flops / 1e9;
  j["median_ms"] = f.wall.median * 1e3;
  j["min_ms"] = f.wall.min * 1e3;
  j["max_ms"] = f.wall.max * 1e3;
  j["gflops"] = b.flops / f.wall.median / 1e9;
  j["ratio"] = f.ratio(b);
  j["busy"] = f.busy;
  j["error"] = f.error;
  return j.dump() + "\n";
}

}  // namespace

int bench_attention_cpu(const AttentionBench& o, const std::string& backend) {
  Batch b = make_batch(o);
  const AttentionDesc desc{b.dtype, b.dim, b.dim, b.causal, false};
  const attention::BackendChoice choice = attention::select_backend(desc, backend);
  ThreadPool pool(o.threads);
  choice.backend->prepare(desc, o.threads);
  choice.backend->run(b.args(), pool);  // kernels are generated, memory is touched
  ops::MachinePeak peak = ops::measure_machine_peak(o.threads, 0.2);
  std::vector<double> seconds, cpu_seconds;
  for (int i = 0; i < (o.repeat > 0 ? o.repeat : 5); ++i) {
    const double cpu_begin = process_cpu_seconds();
    const auto begin = std::chrono::steady_clock::now();
    choice.backend->run(b.args(), pool);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    cpu_seconds.push_back(process_cpu_seconds() - cpu_begin);
    peak = better(peak, ops::measure_machine_peak(o.threads, 0.1));
  }
  const bool on_bf16 = b.dtype == DType::bf16 && peak.bf16_dot_flops > 0;
  const double ceiling = on_bf16 ? peak.bf16_dot_flops : peak.f32_fma_flops;
  const Timing wall = summarise(seconds);
  const Figures figures{choice.backend->name(),
                        peak,
                        ceiling,
                        wall,
                        summarise(cpu_seconds).median / wall.median / o.threads,
                        sampled_error(b, pool)};
  print_results(o.json ? json(o, b, figures) : table(o, b, figures));
  // bf16 rounds P (2^-9) and sums over many keys; an order of magnitude above what is seen.
  const double allowed = b.dtype == DType::bf16 ? 0.1 : b.dtype == DType::f32 ? 1e-4 : 1e-11;
  return static_cast<int>(figures.error <= allowed ? ExitCode::good : ExitCode::different);
}

}  // namespace longhaul::apps
