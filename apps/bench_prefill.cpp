// longhaul bench prefill: whole prefills on 1, 2, ... of the ranks it was started with, in turn, so
// that the speed-up is a ratio within one run.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "apps/bench.h"
#include "apps/gpu.h"
#include "attention/registry.h"
#include "comm/affinity.h"
#include "comm/mpi_session.h"
#include "runtime/core/log.h"
#include "runtime/io/checkpoint.h"
#include "runtime/model/engine.h"
#include "runtime/model/make_executor.h"

namespace longhaul::apps {
namespace {

struct Options {
  std::filesystem::path model;
  std::vector<int64_t> lengths = {16384};
  std::vector<int> ranks;  // empty: powers of two up to all, and all
  int threads = 1;
  int repeat = 3;
  int64_t chunk = 0;
  std::string dtype, layout = "balanced", backend, load_format = "auto", exchange = "auto";
  double timeout_seconds = 60;
  bool json = false;

  int64_t num_tokens() const {
    int64_t n = 0;
    for (int64_t l : lengths) n += l;
    return n;
  }
};

// One rank count's runs; filled on the ranks that took part.
struct Series {
  int ranks = 1;
  std::unique_ptr<comm::Communicator> comm;  // null on ranks that sit out
  std::vector<double> seconds;               // TTFT, the slowest rank's
  double attention = 0, exposed = 0;         // seconds of the last run, the worst rank's
  layout::Imbalance imbalance;
  std::vector<std::vector<int32_t>> tokens;
};

std::vector<std::vector<int32_t>> random_prompts(const Options& o, int64_t vocab_size) {
  std::mt19937 rng(20261120);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab_size - 1));
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t length : o.lengths) {
    std::vector<int32_t> p(static_cast<size_t>(length));
    for (int32_t& t : p) t = token(rng);
    prompts.push_back(std::move(p));
  }
  return prompts;
}

std::vector<Series> make_series(const Options& o, comm::MpiSession& session) {
  std::vector<int> counts = o.ranks;
  const int all = session.size();
  if (counts.empty()) {
    for (int n = 1; n < all; n *= 2) counts.push_back(n);
    counts.push_back(all);
  }
  std::vector<Series> series;
  for (int n : counts) {
    if (n < 1 || n > all)
      fail(ExitCode::usage, "--ranks {}: started with {} ranks; mpirun -n {} starts more", n, all,
           n);
    Series s;
    s.ranks = n;
    s.comm = session.split(session.rank() < n ? 0 : -1, session.rank());
    series.push_back(std::move(s));
  }
  return series;
}

void run_once(Series& s, const Options& o, model::Executor& executor, Progress& progress,
              const std::vector<std::vector<int32_t>>& prompts) {
  model::EngineOptions options;
  options.layout = layout::parse_layout(o.layout);
  options.chunk_tokens = o.chunk;
  options.generate = 1;
  model::Engine engine(*s.comm, executor, progress, options);
  s.comm->barrier({"bench start"});
  const model::RunResult r = engine.run(prompts, nullptr, [](const model::StepReport&) {});
  double worst[3] = {r.ttft_seconds, r.prefill_times.attention, r.prefill_times.exchange_exposed};
  s.comm->all_reduce(worst, 3, DType::f64, comm::ReduceOp::max, {"bench figures"});
  s.seconds.push_back(worst[0]);
  s.attention = worst[1];
  s.exposed = worst[2];
  s.imbalance = r.prefill_imbalance;
  s.tokens = r.generated;
}

void print_table(const Options& o, const std::vector<Series>& series) {
  const auto tokens = static_cast<double>(o.num_tokens());
  fmt::print(
      "# prefill of {} prompts, {} tokens, {} thread(s) a rank, {}, layout {}; {} runs each, "
      "in turn\n",
      o.lengths.size(), o.num_tokens(), o.threads, o.dtype, o.layout, o.repeat);
  fmt::print("{:>6} {:>10} {:>10} {:>10} {:>11} {:>9} {:>13} {:>12} {:>10} {:>7}\n", "ranks",
             "median ms", "min ms", "max ms", "tokens/s", "speed-up", "attention ms", "exposed ms",
             "area imb.", "same?");
  const double one = summarise(series.front().seconds).median;
  for (const Series& s : series) {
    const Timing t = summarise(s.seconds);
    fmt::print(
        "{:>6} {:>10.1f} {:>10.1f} {:>10.1f} {:>11.0f} {:>9.2f} {:>13.1f} {:>12.1f} {:>10.4f} "
        "{:>7}\n",
        s.ranks, 1e3 * t.median, 1e3 * t.min, 1e3 * t.max, tokens / t.median, one / t.median,
        1e3 * s.attention, 1e3 * s.exposed, s.imbalance.area,
        s.tokens == series.front().tokens ? "yes" : "NO");
  }
}

void print_json(const Options& o, const std::vector<Series>& series) {
  nlohmann::ordered_json j;
  j["bench"] = "prefill";
  j["lengths"] = o.lengths;
  j["threads"] = o.threads;
  j["dtype"] = o.dtype;
  j["layout"] = o.layout;
  for (const Series& s : series) {
    const Timing t = summarise(s.seconds);
    j["results"].push_back({{"ranks", s.ranks},
                            {"median_ms", 1e3 * t.median},
                            {"min_ms", 1e3 * t.min},
                            {"max_ms", 1e3 * t.max},
                            {"tokens_per_s", static_cast<double>(o.num_tokens()) / t.median},
                            {"speed_up", summarise(series.front().seconds).median / t.median},
                            {"attention_ms", 1e3 * s.attention},
                            {"exchange_exposed_ms", 1e3 * s.exposed},
                            {"area_imbalance", s.imbalance.area},
                            {"same_tokens", s.tokens == series.front().tokens}});
  }
  fmt::print("{}\n", j.dump(2));
}

int bench_ranks(Options o, comm::MpiSession& session) {
  Progress& progress = session.progress();
  const io::ModelConfig config = io::read_model_config(o.model);
  const auto checkpoint = o.load_format == "random" ? io::make_random_checkpoint(config, 0)
                                                    : io::open_safetensors(o.model);
  if (const std::string w = comm::gather_core_shares(session).warning(o.threads);
      !w.empty() && session.rank() == 0)
    spdlog::warn("{}", w);
  ThreadPool pool(o.threads, &progress);
  const attention::DescFor desc_for = [&](DeviceKind device) {
    attention::AttentionDesc desc;
    desc.dtype = o.dtype.empty() ? model::default_dtype(config, device) : parse_dtype(o.dtype);
    desc.head_dim = desc.head_dim_v = config.head_dim;
    return desc;
  };
  attention::BackendChoice choice = attention::select_backend(desc_for, o.backend);
  const attention::AttentionDesc desc = desc_for(choice.backend->device());
  o.dtype = dtype_name(desc.dtype);
  choice.backend->prepare(desc, o.threads);
  if (choice.backend->device() == DeviceKind::cuda) open_gpu(session);
  progress.phase = "load";
  model::ExecutorOptions options;
  options.exchange = o.exchange;
  auto executor = model::make_executor(config, *checkpoint, desc.dtype, *choice.backend, pool,
                                       progress, options);
  const auto prompts = random_prompts(o, config.vocab_size);
  std::vector<Series> series = make_series(o, session);
  progress.phase = "bench";
  for (int i = -1; i < o.repeat; ++i)  // the first round warms up
    for (Series& s : series) {
      session.world().barrier({"bench turn"});
      if (s.comm) run_once(s, o, *executor, progress, prompts);
      if (i < 0) s.seconds.clear();
    }
  bool same = true;
  if (session.rank() == 0) {
    o.json ? print_json(o, series) : print_table(o, series);
    std::fflush(stdout);
    for (const Series& s : series) same = same && s.tokens == series.front().tokens;
  }
  executor.reset();  // before the communicators that it exchanges through
  for (Series& s : series) s.comm.reset();
  return static_cast<int>(same ? ExitCode::good : ExitCode::different);
}

}  // namespace

Action add_bench_prefill(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("--model", o->model, "folder with config.json and the weights")->required();
  app.add_option("--lengths", o->lengths, "tokens of each prompt, comma separated")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--ranks", o->ranks, "rank counts to compare, e.g. 1,2 (default: 1, 2, 4 ... all)")
      ->delimiter(',');
  app.add_option("--threads", o->threads, "threads a rank")->check(CLI::PositiveNumber);
  app.add_option("--repeat", o->repeat, "runs of each rank count")->check(CLI::PositiveNumber);
  app.add_option("--chunk", o->chunk, "new tokens a step (0: all)")->check(CLI::NonNegativeNumber);
  app.add_option("--dtype", o->dtype, "f32, bf16 or f64 (default: the device's)");
  app.add_option("--exchange", o->exchange, "how GPUs exchange KV: auto, peer, nccl, staged")
      ->check(CLI::IsMember({"auto", "peer", "nccl", "staged"}));
  app.add_option("--layout", o->layout, "balanced, zigzag or contiguous");
  app.add_option("--backend", o->backend, "attention backend");
  app.add_option("--load-format", o->load_format, "auto, or random for seeded weights")
      ->check(CLI::IsMember({"auto", "random"}));
  app.add_option("--timeout", o->timeout_seconds, "seconds without a sign of life of a rank");
  app.add_flag("--json", o->json, "JSON instead of a table");
  return [o] {
    comm::SessionOptions session_options;
    session_options.timeout_seconds = o->timeout_seconds;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return bench_ranks(*o, session); });
  };
}

}  // namespace longhaul::apps
