// longhaul bench comm: what ranks exchange, how fast, and whether it arrives.

#include "apps/bench_comm.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/gpu.h"
#include "attention/registry.h"
#include "runtime/core/log.h"

namespace longhaul::apps {
namespace {

bool all_right(const CommFigures& f) {
  return std::all_of(f.figures.begin(), f.figures.end(),
                     [](const CommFigure& x) { return x.wrong == 0; });
}

std::string size_text(int64_t bytes) {
  if (bytes % (1 << 20) == 0) return fmt::format("{} MiB", bytes >> 20);
  if (bytes % (1 << 10) == 0) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} B", bytes);
}

std::string table(const CommBench& o, const CommFigures& f, int ranks) {
  std::string text;
  auto to = std::back_inserter(text);
  fmt::format_to(to, "# longhaul bench comm: {} {}, medians of {} turns, the slowest rank\n", ranks,
                 f.device.empty() ? "CPU ranks" : "x " + f.device, o.repeat);
  const char* const meaning =
      f.device.empty()
          ? "received by each rank; all_reduce: bus bandwidth, 2 (n - 1) / n bytes"
          : "received by each rank of an all-gather in place; host: to start and finish one";
  fmt::format_to(to, "# GB/s: {}\n", meaning);
  fmt::format_to(to, "{:>14} {:>12} {:>12} {:>9} {:>10}  {}\n", "operation", "bytes/rank", "us",
                 "GB/s", "host us", "right?");
  for (const CommFigure& x : f.figures)
    fmt::format_to(to, "{:>14} {:>12} {:>12.1f} {:>9.2f} {:>10}  {}\n", x.operation,
                   size_text(x.bytes_per_rank), x.microseconds, x.gigabytes_per_s,
                   f.device.empty() ? "-" : fmt::format("{:.1f}", x.host_microseconds),
                   x.wrong == 0 ? "ok" : fmt::format("{} WRONG", x.wrong));
  for (const std::string& line : f.refused) fmt::format_to(to, "# not run: {}\n", line);
  return text;
}

std::string json(const CommFigures& f, int ranks) {
  nlohmann::ordered_json j;
  j["bench"] = "comm";
  j["device"] = f.device.empty() ? "cpu" : f.device;
  j["ranks"] = ranks;
  j["results"] = nlohmann::ordered_json::array();
  for (const CommFigure& x : f.figures)
    j["results"].push_back({{"operation", x.operation},
                            {"bytes_per_rank", x.bytes_per_rank},
                            {"microseconds", x.microseconds},
                            {"gigabytes_per_s", x.gigabytes_per_s},
                            {"host_microseconds", x.host_microseconds},
                            {"wrong", x.wrong}});
  j["refused"] = f.refused;
  j["ok"] = all_right(f);
  return j.dump() + "\n";
}

int bench_comm(const CommBench& o, comm::MpiSession& session) {
  if (session.size() < 2)
    fail(ExitCode::usage,
         "bench comm needs 2 ranks or more: mpirun -n 4 longhaul bench comm ({} started)",
         session.size());
  // A GPU where a run would take one.
  const attention::AttentionDesc desc{DType::f32, 128, 128, true, false};
  const bool gpu = attention::select_backend(desc, o.backend).backend->device() == DeviceKind::cuda;
  if (gpu) open_gpu(session);
  if (!gpu && !o.exchange.empty())
    fail(ExitCode::usage, "--exchange: for GPUs only; leave it away, or give --backend cuda");
  const CommFigures figures = gpu ? bench_comm_gpu(o, session) : bench_comm_cpu(o, session.world());
  if (session.rank() == 0)
    print_results(o.json ? json(figures, session.size()) : table(o, figures, session.size()));
  return static_cast<int>(all_right(figures) ? ExitCode::good : ExitCode::different);
}

}  // namespace

std::vector<int64_t> CommBench::bytes() const {
  std::vector<int64_t> result;
  for (const std::string& size : sizes) result.push_back(parse_bytes("--sizes", size));
  return result;
}

Action add_bench_comm(CLI::App& app) {
  auto o = std::make_shared<CommBench>();
  app.add_option("--backend", o->backend,
                 "cuda: between GPUs; cpu: between ranks (default: as a run would choose)");
  app.add_option("--sizes", o->sizes, "bytes a rank, e.g. 64K,1M,33M (default: a range)")
      ->delimiter(',');
  app.add_option("--exchange", o->exchange, "GPU: which of peer, nccl, staged (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"peer", "nccl", "staged"}));
  app.add_option("--repeat", o->repeat, "turns of each size")
      ->check(whole_number(1, kMostRepeats))
      ->capture_default_str();
  app.add_option("--timeout", o->timeout, "seconds without a sign of life of a rank")
      ->check(timeout_seconds())
      ->capture_default_str();
  app.add_flag("--json", o->json, "one JSON object instead of the table");
  return [o] {
    o->bytes();  // before MPI starts
    comm::SessionOptions session_options;
    session_options.timeout_seconds = o->timeout;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return bench_comm(*o, session); });
  };
}

}  // namespace longhaul::apps
