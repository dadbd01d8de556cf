// longhaul bench attention: options, and which form they ask for.

#include "apps/bench_attention.h"

#include <memory>

#include "apps/gpu.h"
#include "attention/registry.h"
#include "runtime/core/log.h"

namespace longhaul::apps {
namespace {

int bench_attention(const AttentionBench& bench, comm::MpiSession& session) {
  const attention::AttentionDesc desc{bench.compute(), bench.head_dim, bench.head_dim,
                                      bench.causal(), false};
  const attention::BackendChoice choice = attention::select_backend(desc, bench.backend);
  if (choice.backend->device() == DeviceKind::cuda) {
    open_gpu(session);
    return bench_attention_gpu(bench, session);
  }
  if (session.size() > 1)
    fail(ExitCode::usage,
         "bench attention: CPU backends are measured on one rank; {} were started (bench prefill "
         "measures ranks)",
         session.size());
  if (!bench.share.empty() || bench.pace != "full")
    fail(ExitCode::usage, "{}: for GPUs only; leave it away, or give --backend cuda",
         bench.share.empty() ? "--rested" : "--share");
  return bench_attention_cpu(bench, std::string(choice.backend->name()));
}

}  // namespace

std::vector<layout::SequenceExtent> AttentionBench::extents() const {
  if (prefix.size() != 1 && prefix.size() != lengths.size())
    fail(ExitCode::usage, "--prefix has {} lengths, --lengths {}", prefix.size(), lengths.size());
  std::vector<layout::SequenceExtent> result;
  for (size_t i = 0; i < lengths.size(); ++i)
    result.push_back({prefix[prefix.size() == 1 ? 0 : i], lengths[i]});
  return result;
}

AttentionBench::Share AttentionBench::share_of() const {
  if (share.empty()) return {};
  const size_t slash = share.find('/');
  Share s;
  try {
    if (slash == std::string::npos) throw std::invalid_argument(share);
    s = {std::stoi(share.substr(0, slash)), std::stoi(share.substr(slash + 1))};
  } catch (const std::exception&) {
    fail(ExitCode::usage, "--share '{}': give RANK/RANKS, for example 1/4", share);
  }
  if (s.rank < 0 || s.rank >= s.ranks || s.ranks > 4096)
    fail(ExitCode::usage, "--share {}: ranks are counted from 0, so give 0/{} to {}/{}", share,
         s.ranks, s.ranks - 1, s.ranks);
  return s;
}

Action add_bench_attention(CLI::App& app) {
  auto o = std::make_shared<AttentionBench>();
  app.add_option("--backend", o->backend, "backend to measure (default: as a run would choose)");
  app.add_option("--dtype", o->dtype, "f32, bf16 or f64")
      ->check(compute_dtype())
      ->capture_default_str();
  app.add_option("--heads", o->heads, "query heads / KV heads")->capture_default_str();
  app.add_option("--head-dim", o->head_dim, "elements a head")
      ->check(whole_number(1, 4096))
      ->capture_default_str();
  app.add_option("--lengths", o->lengths, "new tokens of each sequence, comma separated")
      ->delimiter(',')
      ->check(whole_number(1, kMostTokens))
      ->capture_default_str();
  app.add_option("--prefix", o->prefix, "cached tokens of each sequence, or one for all")
      ->delimiter(',')
      ->check(whole_number(0, kMostTokens))
      ->capture_default_str();
  app.add_option("--layout", o->layout, "who computes what: zigzag, balanced or contiguous")
      ->capture_default_str();
  app.add_option("--share", o->share, "GPU: the work of rank R of N alone, no exchange, e.g. 1/4");
  app.add_flag("--wait-in-kernel", o->wait_in_kernel,
               "GPU: attention starts before the others' keys have come");
  app.add_option("--exchange", o->exchange, "how GPUs exchange KV: auto, peer, nccl, staged")
      ->check(CLI::IsMember({"auto", "peer", "nccl", "staged"}))
      ->capture_default_str();
  app.add_option("--pace", o->pace,
                 "GPU: full (calls back to back, at the power limit), rested (single calls after "
                 "pauses) or both")
      ->check(CLI::IsMember({"full", "rested", "both"}))
      ->capture_default_str();
  app.add_flag_callback(
      "--rested", [o] { o->pace = "rested"; }, "short for --pace rested");
  app.add_option("--threads", o->threads, "CPU: threads")
      ->check(whole_number(1, kMostThreads))
      ->capture_default_str();
  app.add_option("--repeat", o->repeat, "repetitions (default: 5; GPU: 3 turns of about 150 ms)")
      ->check(whole_number(1, kMostRepeats));
  app.add_option("--timeout", o->timeout, "seconds without a sign of life of a rank")
      ->check(timeout_seconds())
      ->capture_default_str();
  app.add_flag("--not-causal,--no-causal", o->not_causal, "attend all keys");
  app.add_flag("--json", o->json, "one JSON object instead of the table");
  return [o] {
    parse_heads(o->heads);  // before MPI starts
    o->extents();
    o->share_of();
    layout::parse_layout(o->layout);
    comm::SessionOptions session_options;
    session_options.timeout_seconds = o->timeout;
    comm::MpiSession session(nullptr, nullptr, session_options);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return bench_attention(*o, session); });
  };
}

}  // namespace longhaul::apps
