// longhaul run: the main path, top to bottom.

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "apps/agreement.h"
#include "apps/command.h"
#include "apps/gpu.h"
#include "apps/progress_line.h"
#include "apps/run_dump.h"
#include "apps/run_inputs.h"
#include "apps/run_options.h"
#include "apps/run_report.h"
#include "apps/run_trace.h"
#include "attention/registry.h"
#include "comm/affinity.h"
#include "comm/mpi_session.h"
#include "runtime/core/log.h"
#include "runtime/core/memory.h"
#include "runtime/io/atomic_file.h"
#include "runtime/layout/process_grid.h"
#include "runtime/model/engine.h"

namespace longhaul::apps {
namespace {

// About how many new tokens a rank has in a prefill step.
int64_t rows_of_a_step(const RunInputs& inputs, const RunOptions& o,
                       const layout::ProcessGrid& grid) {
  int64_t tokens = 0;
  for (const io::Prompt& p : inputs.prompts) tokens += static_cast<int64_t>(p.tokens.size());
  return (o.chunk > 0 ? std::min(tokens, o.chunk) : tokens) / grid.cp;
}

int run_ranks(const RunOptions& o, comm::MpiSession& session) {
  const auto start = std::chrono::steady_clock::now();
  comm::Communicator& world = session.world();
  Progress& progress = session.progress();
  const auto grid =
      layout::make_process_grid(world.size(), world.rank(), o.dp, o.cp, o.ulysses, o.tp);

  // Everything that can be wrong is found before the weights are touched.
  progress.phase = "start";
  progress.enter("check the request");
  if (world.rank() == 0) {
    if (!o.output.empty()) io::check_output_path(o.output, o.force);
    if (!o.trace.empty()) io::check_output_path(o.trace, o.force);
    check_dump_options(o);
  }
  const RunInputs inputs = read_inputs(o, world.rank() == 0);
  check_agreement(world, inputs.common);
  attention::BackendChoice choice = attention::select_backend(
      [&](DeviceKind device) { return attention_desc(inputs.config, o, device); }, o.backend);
  const attention::AttentionDesc desc = attention_desc(inputs.config, o, choice.backend->device());
  attention::check_backend_agreement(*choice.backend, world);
  spdlog::info("attention backends: {}", fmt::join(choice.log, "; "));

  const comm::CoreShares cores = comm::gather_core_shares(session);
  const int threads = o.threads > 0 ? o.threads : cores.default_threads();
  if (const std::string w = cores.warning(threads); !w.empty() && world.rank() == 0)
    spdlog::warn("{}", w);
  ThreadPool pool(threads, &progress);
  choice.backend->prepare(desc, threads);
  if (choice.backend->device() == DeviceKind::cuda) open_gpu(session);

  progress.phase = "load";
  RunSummary summary;
  const auto executor =
      load_model(inputs, o, desc.dtype, *choice.backend, pool, progress, summary.load_seconds);
  const Common weights{"the content of the weights",
                       fmt::format("{:016x}", executor->weights_content()), ExitCode::mismatch};
  check_agreement(world, {&weights, 1});

  RunDump dump(o, inputs, grid, choice.backend->name(), world, progress);
  model::Engine engine(world, *executor, progress,
                       {o.layout_kind, o.chunk, o.generate, o.stop_at_eos});
  executor->prepare(world, rows_of_a_step(inputs, o, grid));
  Trace trace;
  int64_t clock_offset = 0;
  if (!o.trace.empty()) {
    clock_offset = clock_offset_ns(world);
    progress.trace = &trace;
  }
  reset_memory_peaks();
  world.barrier({"before prefill"});
  {
    ProgressLine line(progress, inputs.config.num_layers, world.rank() == 0);
    summary.result = engine.run(inputs.token_lists(), dump.sink(),
                                [&](const model::StepReport& step) { line.report(step); });
  }
  progress.phase = "dump";
  dump.close();

  progress.trace = nullptr;
  summary.wall_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  progress.phase = "report";
  RankFigures own;
  own.times = summary.result.prefill_times;
  own.times.load = summary.load_seconds;
  own.sent_bytes = world.traffic().sent_bytes + executor->device_traffic().sent_bytes;
  own.received_bytes = world.traffic().received_bytes + executor->device_traffic().received_bytes;
  own.weights_bytes = memory_figures(MemoryUse::weights).current_bytes;
  own.tensor_peak_bytes = memory_figures_without_weights().peak_bytes;
  own.kv_cache_bytes = summary.result.kv_cache_bytes;
  own.threads = threads;
  own.flops = summary.result.prefill_flops.total();
  own.attention_flops = summary.result.prefill_flops.attention;
  own.matmul_ceiling = executor->matmul_ceiling();
  std::strncpy(own.device, executor->device_name().c_str(), sizeof own.device - 1);
  std::strncpy(own.host, session.host().c_str(), sizeof own.host - 1);
  summary.ranks = gather_figures(world, own);
  summary.backend = choice.backend->name();
  summary.dtype = dtype_name(desc.dtype);
  summary.model = inputs.config.model_type;
  summary.generated = summary.result.generated;
  summary.prompts = inputs.prompts;
  summary.has_text = inputs.tokenizer != nullptr;
  for (const auto& ids : summary.generated)
    summary.texts.push_back(summary.has_text ? inputs.tokenizer->decode(ids) : "");
  if (world.rank() == 0) {
    print_report(summary, o);
    if (!o.output.empty()) io::write_file_atomically(o.output, report_json(summary, o), o.force);
  }
  if (!o.trace.empty()) write_trace(world, trace, clock_offset, o.trace, o.force);
  return static_cast<int>(summary.all_correct() ? ExitCode::good : ExitCode::different);
}

// The command line as this process was started with it.
std::string command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

}  // namespace

Action add_run_command(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  options->declare(app);
  return [options] {
    options->check();
    options->command_line = command_line();
    comm::SessionOptions session_options;
    session_options.timeout_seconds = options->timeout_seconds;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.world().rank(), session.world().size());
    return comm::run_guarded(session, [&] { return run_ranks(*options, session); });
  };
}

}  // namespace longhaul::apps
