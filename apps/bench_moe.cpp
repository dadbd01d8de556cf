// longhaul bench moe: a layer's experts on one rank.

#include "apps/bench_moe.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/gpu.h"
#include "attention/registry.h"
#include "runtime/core/log.h"

namespace longhaul::apps {
namespace {

constexpr double kLeastBound = 5e-5;  // of float32; bf16's own is larger

bool right(const MoeFigures& f) {
  return f.routed_right && f.errors.over_rms() <= f.errors.bound(kLeastBound);
}

std::string table(const MoeBench& o, const MoeResult& r) {
  std::string text;
  auto to = std::back_inserter(text);
  fmt::format_to(to,
                 "# longhaul bench moe: {}, kernel {}, {}, {} experts, top {}, hidden {}, "
                 "intermediate {}\n",
                 r.device.empty() ? "CPU cores" : r.device, r.kernel, o.dtype, o.experts, o.top_k,
                 o.hidden, o.intermediate);
  fmt::format_to(to,
                 "# gate_up: with SwiGLU; block: all of them; of {} in the same run; error: "
                 "sampled outputs against float64, largest over the RMS, beside twice a plain {} "
                 "computation's\n",
                 r.device.empty() ? "the cores' peak" : "a bf16 product of 8192^3", o.dtype);
  fmt::format_to(to, "{:>9} {:>12} {:>9} {:>10} {:>10} {:>9} {:>10}  {}\n", "tokens", "pace",
                 "part", "median ms", "min ms", "TFLOP/s", "of ceiling", "error");
  for (const MoeFigures& f : r.figures)
    for (const MoePart& p : f.parts) {
      const double rate = p.flops / (p.median_ms * 1e-3);
      fmt::format_to(to, "{:>9} {:>12} {:>9} {:>10.4f} {:>10.4f} {:>9} {:>10}  {}\n", f.tokens,
                     f.pace, p.name, p.median_ms, p.min_ms,
                     p.flops > 0 ? fmt::format("{:.2f}", rate * 1e-12) : "-",
                     p.flops > 0 ? fmt::format("{:.3f}", rate / f.ceiling) : "-",
                     p.name != "block" ? ""
                     : f.routed_right  ? verdict(f.errors.over_rms(), f.errors.bound(kLeastBound))
                                       : "experts chosen WRONG");
    }
  return text;
}

std::string json(const MoeBench& o, const MoeResult& r) {
  nlohmann::ordered_json j;
  j["bench"] = "moe";
  j["device"] = r.device.empty() ? "cpu" : r.device;
  j["kernel"] = r.kernel;
  j["dtype"] = o.dtype;
  j["experts"] = o.experts;
  j["top_k"] = o.top_k;
  j["hidden"] = o.hidden;
  j["intermediate"] = o.intermediate;
  bool ok = true;
  for (const MoeFigures& f : r.figures) {
    nlohmann::ordered_json row = {
        {"tokens", f.tokens}, {"pace", f.pace}, {"ceiling_tflops", f.ceiling * 1e-12}};
    for (const MoePart& p : f.parts) {
      row[p.name + "_ms"] = p.median_ms;
      if (p.flops > 0) row[p.name + "_tflops"] = p.flops / (p.median_ms * 1e9);
    }
    row["error"] = f.errors.over_rms();
    row["error_bound"] = f.errors.bound(kLeastBound);
    row["routed_right"] = f.routed_right;
    j["results"].push_back(std::move(row));
    ok = ok && right(f);
  }
  j["ok"] = ok;
  return j.dump() + "\n";
}

int bench_moe(const MoeBench& o, comm::MpiSession& session) {
  if (session.size() > 1)
    fail(ExitCode::usage, "bench moe: measured on one rank; {} were started", session.size());
  // A GPU where a run would take one.
  const attention::AttentionDesc desc{o.compute(), 128, 128, true, false};
  const bool gpu = attention::select_backend(desc, o.backend).backend->device() == DeviceKind::cuda;
  if (gpu) open_gpu(session);
  const MoeResult result = gpu ? bench_moe_gpu(o, session) : bench_moe_cpu(o);
  print_results(o.json ? json(o, result) : table(o, result));
  const bool good = std::all_of(result.figures.begin(), result.figures.end(), right);
  return static_cast<int>(good ? ExitCode::good : ExitCode::different);
}

}  // namespace

Action add_bench_moe(CLI::App& app) {
  auto o = std::make_shared<MoeBench>();
  app.add_option("--backend", o->backend, "cuda or cpu (default: as a run would choose)");
  app.add_option("--dtype", o->dtype, "bf16 or f32")->check(compute_dtype())->capture_default_str();
  app.add_option("--tokens", o->tokens,
                 "rows of the layer, comma separated (default: 4096,16384,65536; CPU: 512)")
      ->delimiter(',')
      ->check(whole_number(1, 1 << 24));
  app.add_option("--experts", o->experts, "experts of the layer")
      ->check(whole_number(1, 1024))
      ->capture_default_str();
  app.add_option("--top-k", o->top_k, "experts of a token")
      ->check(whole_number(1, 32))
      ->capture_default_str();
  app.add_option("--hidden", o->hidden, "elements of a row")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--intermediate", o->intermediate, "elements inside an expert")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--pace", o->pace, "GPU: full (back to back), rested (single calls) or both")
      ->check(CLI::IsMember({"full", "rested", "both"}))
      ->capture_default_str();
  app.add_flag_callback(
      "--rested", [o] { o->pace = "rested"; }, "short for --pace rested");
  app.add_option("--threads", o->threads, "CPU: threads")
      ->check(whole_number(1, kMostThreads))
      ->capture_default_str();
  app.add_option("--repeat", o->repeat, "repetitions (default 3; GPU: turns of about 150 ms)")
      ->check(whole_number(1, kMostRepeats));
  app.add_option("--timeout", o->timeout, "seconds without a sign of life")
      ->check(timeout_seconds())
      ->capture_default_str();
  app.add_flag("--json", o->json, "one JSON object instead of the table");
  return [o] {
    if (o->top_k > o->experts)
      fail(ExitCode::usage, "--top-k {}: there are {} experts; give fewer", o->top_k, o->experts);
    comm::SessionOptions session_options;
    session_options.timeout_seconds = o->timeout;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return bench_moe(*o, session); });
  };
}

}  // namespace longhaul::apps
