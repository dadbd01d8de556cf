// longhaul bench attention on GPUs: times, ratios, and whether the outputs are right.

#include "apps/bench_attention.h"
#if LONGHAUL_HAS_CUDA
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/bench_attention_gpu.h"
#include "apps/bench_gpu.h"
#include "comm/affinity.h"
#include "comm/cuda/device_wait.h"
#include "runtime/core/cuda/device.h"
#include "runtime/ops/cuda/machine_peak.h"
#endif

namespace longhaul::apps {
#if LONGHAUL_HAS_CUDA
namespace {

constexpr comm::OpLabel kLabel{"bench"};
// LSE is summed in float32; the project's bound for it.
constexpr double kMostLseError = 1e-4;

struct Figures {
  Pace pace = Pace::full;
  GpuTiming layer, exchange, attend;
  double matmul = 0;  // FLOP/s of a large matrix product, right after
};

struct Result {
  double flops = 0;     // of a layer, mean of the ranks
  double received = 0;  // bytes of a layer, the rank with most
  std::string kernel, exchange;
  SampleErrors errors;
  std::vector<Figures> figures;

  double least_bound(DType dtype) const { return dtype == DType::bf16 ? 1e-3 : 5e-5; }
  bool right(DType dtype) const {
    return errors.over_rms() <= errors.bound(least_bound(dtype)) &&
           errors.lse_largest <= kMostLseError;
  }
};

double mean(comm::Communicator& comm, double value) {
  comm.all_reduce(&value, 1, DType::f64, comm::ReduceOp::sum, kLabel);
  return value / comm.size();
}

SampleErrors merge(comm::Communicator& comm, SampleErrors e) {
  double sums[2] = {e.squares, e.count};
  double maxima[3] = {e.largest, e.plain, e.lse_largest};
  comm.all_reduce(sums, 2, DType::f64, comm::ReduceOp::sum, kLabel);
  comm.all_reduce(maxima, 3, DType::f64, comm::ReduceOp::max, kLabel);
  return {maxima[0], maxima[1], sums[0], sums[1], maxima[2]};
}

// One layer on data that no buffer has seen yet, so that rows which came too late, or from the
// layer before, are found. Cached tokens stay what they are.
SampleErrors check(AttentionData& data, AttentionRun& run, comm::MpiSession& session,
                   cudaStream_t stream) {
  comm::Communicator& world = session.world();
  const auto& sequences = data.layout.sequences();
  const bool cached = std::any_of(sequences.begin(), sequences.end(),
                                  [](const layout::SequenceExtent& e) { return e.prefix > 0; });
  data.fill(run.exchanges() && cached ? 1 : 2, stream);
  run.load();
  run.layer();
  comm::cuda::wait_stream(world, stream, kLabel, [&] { run.poll(); });
  const int threads = std::min(8, comm::gather_core_shares(session).default_threads());
  ThreadPool pool(threads, &session.progress());
  return merge(world, data.check(pool));
}

Result measure(const AttentionBench& bench, AttentionData& data, AttentionRun& run,
               comm::MpiSession& session, cudaStream_t stream) {
  comm::Communicator& world = session.world();
  Result r;
  r.kernel = run.kernel();
  r.exchange = run.exchange_name();
  r.flops = mean(world, run.flops());
  r.received = static_cast<double>(run.received_bytes());
  world.all_reduce(&r.received, 1, DType::f64, comm::ReduceOp::max, kLabel);
  const GpuClock clock(world, stream, bench.repeat, [&] { run.poll(); });
  for (Pace pace : parse_pace(bench.pace)) {
    Figures f;
    f.pace = pace;
    f.layer = clock.time(pace, [&] { run.layer(); });
    f.matmul = mean(world, ops::cuda::matmul_ceiling(stream));
    if (run.exchanges()) {
      f.exchange = clock.time(pace, [&] { run.exchange(); });
      f.attend = clock.time(pace, [&] { run.attend(); });
    }
    r.figures.push_back(f);
  }
  r.errors = check(data, run, session, stream);
  return r;
}

std::string work_of(const AttentionBench& bench, int ranks) {
  if (!bench.share.empty()) return bench.layout + " " + bench.share;
  return ranks == 1 ? "whole" : bench.layout;
}

std::string table(const AttentionBench& o, const AttentionData& data, const Result& r, int ranks) {
  const bool exchanges = ranks > 1;
  std::string text;
  auto to = std::back_inserter(text);
  const int64_t cached = data.num_keys - data.num_new_tokens();
  fmt::format_to(to,
                 "# longhaul bench attention: {} x {}, kernel {}, {}, {}, {} sequence{}, {} cached "
                 "tokens{}\n",
                 ranks, cuda::current_device().name, r.kernel, o.dtype,
                 data.causal ? "causal" : "not causal", o.lengths.size(),
                 o.lengths.size() == 1 ? "" : "s", cached,
                 exchanges ? ", exchange " + r.exchange : "");
  fmt::format_to(to,
                 "# full queue: calls back to back, second half of {} turns of about 150 ms, the "
                 "board at its power limit; rested: single calls after 0.3 s pauses\n"
                 "# FLOPs of the unmasked area; of matmul: of a bf16 product of 8192^3 in the same "
                 "run; error: {:.0f} sampled outputs against float64, largest over the RMS, beside "
                 "twice a plain {} computation's\n",
                 o.repeat > 0 ? o.repeat : 3, r.errors.count / data.shape.head_dim_v, o.dtype);
  fmt::format_to(to, "#{:>9} {:>7} {:>4} {:>5} {:>14} {:>10} {:>10} {:>10} {:>11} {:>9}", "tokens",
                 "heads", "D", "ranks", "layout", "pace", "median ms", "min ms", "TFLOP/s/GPU",
                 "of matmul");
  if (exchanges) fmt::format_to(to, " {:>11} {:>8} {:>12}", "exchange ms", "GB/s", "attention ms");
  fmt::format_to(to, "  error\n");
  for (const Figures& f : r.figures) {
    const double rate = r.flops / (f.layer.median * 1e-3);
    fmt::format_to(to,
                   "{:>10} {:>7} {:>4} {:>5} {:>14} {:>10} {:>10.4f} {:>10.4f} {:>11.1f} {:>9.3f}",
                   data.num_new_tokens(), o.heads, o.head_dim, ranks, work_of(o, ranks),
                   pace_name(f.pace), f.layer.median, f.layer.min, rate * 1e-12, rate / f.matmul);
    if (exchanges)
      fmt::format_to(to, " {:>11.4f} {:>8.1f} {:>12.4f}", f.exchange.median,
                     r.received / (f.exchange.median * 1e6), f.attend.median);
    fmt::format_to(to, "  {}\n",
                   verdict(r.errors.over_rms(), r.errors.bound(r.least_bound(data.shape.dtype))));
  }
  if (r.errors.lse_largest > kMostLseError)
    fmt::format_to(to, "# log-sum-exp off by {:.1e}, more than {:.0e}: WRONG\n",
                   r.errors.lse_largest, kMostLseError);
  return text;
}

std::string json(const AttentionBench& o, const AttentionData& data, const Result& r, int ranks) {
  nlohmann::ordered_json j;
  j["bench"] = "attention";
  j["backend"] = "cuda";
  j["device"] = cuda::current_device().name;
  j["kernel"] = r.kernel;
  j["dtype"] = o.dtype;
  j["heads"] = data.shape.num_heads;
  j["kv_heads"] = data.shape.num_kv_heads;
  j["head_dim"] = o.head_dim;
  j["causal"] = data.causal;
  j["lengths"] = o.lengths;
  j["prefix"] = o.prefix;
  j["ranks"] = ranks;
  j["layout"] = work_of(o, ranks);
  j["exchange"] = r.exchange;
  j["received_bytes"] = r.received;
  j["flops_per_gpu"] = r.flops;
  for (const Figures& f : r.figures) {
    const double rate = r.flops / (f.layer.median * 1e-3);
    nlohmann::ordered_json row = {{"pace", pace_name(f.pace)},
                                  {"median_ms", f.layer.median},
                                  {"min_ms", f.layer.min},
                                  {"tflops_per_gpu", rate * 1e-12},
                                  {"matmul_tflops", f.matmul * 1e-12},
                                  {"of_matmul", rate / f.matmul}};
    if (ranks > 1) {
      row["exchange_ms"] = f.exchange.median;
      row["exchange_gb_per_s"] = r.received / (f.exchange.median * 1e6);
      row["attention_ms"] = f.attend.median;
    }
    j["results"].push_back(std::move(row));
  }
  j["error"] = r.errors.over_rms();
  j["error_bound"] = r.errors.bound(r.least_bound(data.shape.dtype));
  j["lse_error"] = r.errors.lse_largest;
  j["ok"] = r.right(data.shape.dtype);
  return j.dump() + "\n";
}

}  // namespace

int bench_attention_gpu(const AttentionBench& bench, comm::MpiSession& session) {
  const int ranks = session.size();
  if (ranks > 1 && !bench.share.empty())
    fail(ExitCode::usage, "--share {}: the work of one rank is measured on one rank, not {}",
         bench.share, ranks);
  if (ranks > 1 && bench.not_causal)
    fail(ExitCode::usage, "--not-causal: on one GPU only; context parallelism here is causal");
  const AttentionBench::Share share = bench.share_of();
  const cuda::Stream stream;
  AttentionData data(bench, ranks > 1 ? session.rank() : share.rank,
                     ranks > 1 ? ranks : share.ranks);
  data.fill(1, stream);
  const auto run =
      ranks > 1 ? make_rank_run(data, session.world(), bench.exchange, bench.wait_in_kernel, stream)
                : make_kernel_run(data, stream);
  const Result result = measure(bench, data, *run, session, stream);
  if (session.rank() == 0)
    print_results(bench.json ? json(bench, data, result, ranks)
                             : table(bench, data, result, ranks));
  return static_cast<int>(result.right(data.shape.dtype) ? ExitCode::good : ExitCode::different);
}
#else
int bench_attention_gpu(const AttentionBench&, comm::MpiSession&) {
  fail(ExitCode::usage, "GPUs are not built into this longhaul; build it where nvcc is");
}
#endif

}  // namespace longhaul::apps
