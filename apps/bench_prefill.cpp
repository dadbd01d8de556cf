// longhaul bench prefill: whole prefills on 1, 2, ... of the ranks it was started with, in turn, so
// that the speed-up is a ratio within one run.

#include "apps/bench_prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "apps/gpu.h"
#include "attention/registry.h"
#include "comm/affinity.h"
#include "comm/mpi_session.h"
#include "runtime/core/log.h"
#include "runtime/io/checkpoint.h"
#include "runtime/model/engine.h"
#include "runtime/model/make_executor.h"
#if LONGHAUL_HAS_CUDA
#include "runtime/core/cuda/check.h"
#endif

namespace longhaul::apps {
namespace {

// A first run longer than this is no warm-up: what it warms is nothing beside it.
constexpr double kLongRunSeconds = 5;

using Options = PrefillBench;

std::vector<std::vector<int32_t>> random_prompts(const std::vector<int64_t>& lengths,
                                                 int64_t vocab_size) {
  std::mt19937 rng(20261120);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab_size - 1));
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t length : lengths) {
    std::vector<int32_t> p(static_cast<size_t>(length));
    for (int32_t& t : p) t = token(rng);
    prompts.push_back(std::move(p));
  }
  return prompts;
}

std::vector<int> rank_counts(const Options& o, int all) {
  std::vector<int> counts = o.ranks;
  if (counts.empty()) {
    for (int n = 1; n < all; n *= 2) counts.push_back(n);
    counts.push_back(all);
  }
  for (int n : counts)
    if (n > all)
      fail(ExitCode::usage, "--ranks {}: started with {} ranks; mpirun -n {} starts more", n, all,
           n);
  return counts;
}

void run_once(PrefillSeries& s, const Options& o, model::Executor& executor, Progress& progress,
              const std::vector<std::vector<int32_t>>& prompts) {
  model::EngineOptions options;
  options.layout = layout::parse_layout(o.layout);
  options.chunk_tokens = o.chunk;
  options.generate = 1;
  model::Engine engine(*s.comm, executor, progress, options);
  s.comm->barrier({"bench start"});
  const model::RunResult r = engine.run(prompts, nullptr, [](const model::StepReport&) {});
  double worst[3] = {r.ttft_seconds, r.prefill_times.attention, r.prefill_times.exchange_exposed};
  double flops = r.prefill_flops.total();
  s.comm->all_reduce(worst, 3, DType::f64, comm::ReduceOp::max, {"bench figures"});
  s.comm->all_reduce(&flops, 1, DType::f64, comm::ReduceOp::sum, {"bench figures"});
  s.seconds.push_back(worst[0]);
  s.flops = flops / s.ranks;
  s.attention = worst[1];
  s.exposed = worst[2];
  s.imbalance = r.prefill_imbalance;
  s.tokens = r.generated;
}

// Bytes that the calling thread's GPU has in use, by whomever.
double device_bytes_in_use() {
#if LONGHAUL_HAS_CUDA
  size_t free = 0, total = 0;
  LH_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<double>(total - free);
#else
  return 0;
#endif
}

// The same on all ranks: after the warm-up, up to --repeat runs within --seconds, and one at least.
bool again(const Options& o, PrefillSeries& s, double spent) {
  if (s.seconds.empty()) return true;
  double enough = static_cast<int>(s.seconds.size()) >= o.repeat ||
                  (o.seconds > 0 && spent + s.seconds.back() > o.seconds);
  s.comm->broadcast(&enough, sizeof enough, 0, {"bench turn"});
  return enough == 0;
}

// All series of one batch, in turn.
void run_batch(std::span<PrefillSeries> series, const Options& o, model::Executor& executor,
               comm::MpiSession& session) {
  const auto prompts = random_prompts(series.front().lengths, executor.config().vocab_size);
  std::vector<double> spent(series.size(), 0);
  for (int i = 0; i <= o.repeat; ++i)
    for (size_t k = 0; k < series.size(); ++k) {
      PrefillSeries& s = series[k];
      session.world().barrier({"bench turn"});
      if (s.comm == nullptr) continue;
      if (i == 0) {
        int64_t tokens = 0;
        for (int64_t l : s.lengths) tokens += l;
        executor.prepare(*s.comm, (o.chunk > 0 ? std::min(tokens, o.chunk) : tokens) / s.ranks);
      } else if (!again(o, s, spent[k])) {
        continue;
      }
      run_once(s, o, executor, session.progress(), prompts);
      spent[k] += s.seconds.back();
      if (i == 0 && s.seconds.back() < kLongRunSeconds) s.seconds.clear();
    }
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
  const std::vector<int> counts = rank_counts(o, session.size());
  // Outlive the executor, which exchanges through them.
  std::vector<std::unique_ptr<comm::Communicator>> comms;
  for (int n : counts) comms.push_back(session.split(session.rank() < n ? 0 : -1, session.rank()));
  progress.phase = "load";
  model::ExecutorOptions options;
  options.exchange = o.exchange;
  options.wait_in_kernel = o.wait_in_kernel;
  const auto executor = model::make_executor(config, *checkpoint, desc.dtype, *choice.backend, pool,
                                             progress, options);
  std::vector<PrefillSeries> series;
  progress.phase = "bench";
  double memory = 0;
  for (const std::vector<int64_t>& lengths : o.batches()) {
    const size_t begin = series.size();
    for (size_t k = 0; k < counts.size(); ++k) {
      PrefillSeries s;
      s.ranks = counts[k];
      s.lengths = lengths;
      s.comm = comms[k].get();
      series.push_back(std::move(s));
    }
    run_batch(std::span(series).subspan(begin), o, *executor, session);
    if (choice.backend->device() == DeviceKind::cuda)
      memory = std::max(memory, device_bytes_in_use());
  }
  PrefillMachine machine;
  machine.device = executor->device_name();
  double figures[2] = {executor->matmul_ceiling(), memory * 1e-9};
  session.world().all_reduce(&figures[0], 1, DType::f64, comm::ReduceOp::sum, {"bench figures"});
  session.world().all_reduce(&figures[1], 1, DType::f64, comm::ReduceOp::max, {"bench figures"});
  machine.matmul = figures[0] / session.size();
  machine.memory_gb = figures[1];
  bool same = true;
  if (session.rank() == 0) {
    print_results(o.json ? prefill_json(o, series, machine) : prefill_table(o, series, machine));
    for (const PrefillSeries& s : series) same = same && s.tokens == first_of(series, s).tokens;
  }
  return static_cast<int>(same ? ExitCode::good : ExitCode::different);
}

}  // namespace

Action add_bench_prefill(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("--model", o->model, "folder with config.json and the weights")->required();
  app.add_option("--lengths", o->lengths, "tokens of each prompt, comma separated")
      ->delimiter(',')
      ->check(whole_number(1, kMostTokens));
  app.add_flag("--each", o->each, "each length for itself, not all in one batch");
  app.add_option("--ranks", o->ranks, "rank counts to compare, e.g. 1,2 (default: 1, 2, 4 ... all)")
      ->delimiter(',')
      ->check(whole_number(1, 1 << 20));
  app.add_option("--threads", o->threads, "threads a rank")->check(whole_number(1, kMostThreads));
  app.add_option("--repeat", o->repeat, "most runs of each rank count")
      ->check(whole_number(1, kMostRepeats));
  app.add_option("--seconds", o->seconds, "no further run once one would pass this (0: no limit)")
      ->check(whole_number(0, 1 << 20));
  app.add_option("--chunk", o->chunk, "new tokens a step (0: all)")
      ->check(whole_number(0, kMostTokens));
  app.add_option("--dtype", o->dtype, "f32, bf16 or f64 (default: the device's)")
      ->check(compute_dtype());
  app.add_flag("--wait-in-kernel", o->wait_in_kernel,
               "GPUs: attention starts before the others' keys have come");
  app.add_option("--exchange", o->exchange, "how GPUs exchange KV: auto, peer, nccl, staged")
      ->check(CLI::IsMember({"auto", "peer", "nccl", "staged"}));
  app.add_option("--layout", o->layout, "balanced, zigzag or contiguous");
  app.add_option("--backend", o->backend, "attention backend");
  app.add_option("--load-format", o->load_format, "auto, or random for seeded weights")
      ->check(CLI::IsMember({"auto", "random"}));
  app.add_option("--timeout", o->timeout, "seconds without a sign of life of a rank")
      ->check(timeout_seconds());
  app.add_flag("--json", o->json, "JSON instead of a table");
  return [o] {
    layout::parse_layout(o->layout);
    comm::SessionOptions session_options;
    session_options.timeout_seconds = o->timeout;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return bench_ranks(*o, session); });
  };
}

}  // namespace longhaul::apps
