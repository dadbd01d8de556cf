#include "apps/run_options.h"

#include <algorithm>
#include <array>

#include "attention/registry.h"
#include "runtime/core/check.h"
#include "runtime/io/glob.h"

namespace longhaul::apps {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr int kMostThreads = 1024;  // of a rank; more than any host has cores for one rank

}  // namespace

void RunOptions::declare(CLI::App& app) {
  app.add_option("--model", model, "folder with config.json and the weights")->required();
  app.add_option("--prompts", prompts,
                 ".json (lists of token ids) or .jsonl (objects with tokens or text)")
      ->required();
  app.add_option("--load-format", load_format,
                 "auto: safetensors; random: seeded weights from config.json alone")
      ->capture_default_str();
  app.add_option("--seed", seed, "seed of --load-format random")->capture_default_str();
  app.add_option("--generate", generate, "tokens to generate greedily after each prompt");
  app.add_flag("--stop-at-eos", stop_at_eos, "stop a sequence at its end-of-text token");
  app.add_flag("--strict", strict, "warnings about the request are errors");
  // An unset shell variable must not silently mean "none".
  const auto not_empty = [](const std::string& given) {
    return given.empty() ? std::string("the name is empty") : std::string();
  };
  app.add_option("--output", output, "write the result as JSON to this file")->check(not_empty);
  app.add_option("--trace", trace, "write a timeline of all ranks (Chrome trace JSON) to this file")
      ->check(not_empty);
  app.add_option("--dump", dump, "write the intermediates as HDF5 into this folder")
      ->check(not_empty);
  app.add_option("--dump-filter", dump_filters,
                 "shell glob on the names to dump, e.g. 'layers.0[0-3].*'; repeatable")
      ->allow_extra_args(false);
  app.add_flag("--force", force, "replace existing output files");
  app.add_option("--cp", cp, "ranks that share the tokens (default: what other degrees leave)");
  app.add_option("--ulysses", ulysses, "ranks that share the heads by all-to-all");
  app.add_option("--tp", tp, "ranks that share each matrix");
  app.add_option("--ep", ep, "ranks that share the experts");
  app.add_option("--dp", dp, "copies that share the prompts");
  app.add_option("--strategy", strategy, "how KV is exchanged: allgather")->capture_default_str();
  app.add_option("--layout", layout, "who owns which tokens: balanced, zigzag, contiguous")
      ->capture_default_str();
  app.add_option("--backend", backend, "attention backend (default: the first that can run)");
  app.add_option(
      "--dtype", dtype,
      "arithmetic and storage: f32, bf16, f64 (default: as stored on GPUs, f32 on CPUs)");
  app.add_option("--chunk", chunk, "new tokens a prefill step over the whole batch (0: all)");
  app.add_option("--page-size", page_size, "tokens a page of the KV cache")->capture_default_str();
  app.add_option("--threads", threads,
                 "threads a rank (default: what its cores and neighbours leave)");
  app.add_option("--timeout", timeout_seconds,
                 "seconds without a sign of life after which a rank counts as hung")
      ->capture_default_str();
  app.add_option("--exchange", exchange,
                 "how GPUs exchange KV: auto (measured), peer, nccl, staged")
      ->capture_default_str();
  app.add_flag(
      "--deterministic", deterministic,
      "GPUs: kernels whose bits do not depend on the number of ranks, the batch or the chunks");
  app.add_flag("--wait-in-kernel", wait_in_kernel,
               "GPUs: attention starts on a rank's own keys before the others' have come");
  app.add_flag("--two-calls", two_calls,
               "one attention call a half, as vendor backends are called, not one for both");
}

void RunOptions::check() {
  auto at_least = [](const char* name, auto value, auto least) {
    if (value < least) fail(ExitCode::usage, "{} {}: give {} or more", name, value, least);
  };
  at_least("--generate", generate, 0);
  at_least("--chunk", chunk, 0);
  // The command line's parser gives the largest number for anything beyond it.
  for (auto [name, value] : {std::pair{"--generate", generate}, {"--chunk", chunk}})
    if (value > kMostTokens)
      fail(ExitCode::usage, "{} {}: give at most {}", name, value, kMostTokens);
  at_least("--page-size", page_size, 1);
  at_least("--threads", threads, 0);
  if (threads > kMostThreads)
    fail(ExitCode::usage, "--threads {}: give at most {}", threads, kMostThreads);
  for (auto [name, degree] :
       {std::pair{"--cp", cp}, {"--ulysses", ulysses}, {"--tp", tp}, {"--ep", ep}, {"--dp", dp}})
    at_least(name, degree, 0);
  if (!(timeout_seconds >= 0.5 && timeout_seconds <= 1e6))
    fail(ExitCode::usage, "--timeout {}: give 0.5 to 1000000 seconds", timeout_seconds);
  for (auto [name, degree] :
       {std::pair{"--ulysses", ulysses}, {"--tp", tp}, {"--ep", ep}, {"--dp", dp}})
    if (degree > 1)
      fail(ExitCode::usage,
           "{} {}: this version shares tokens only; leave {} out, and give the "
           "ranks to --cp",
           name, degree, name);
  if (load_format != "auto" && load_format != "random")
    fail(ExitCode::usage, "--load-format '{}': give auto or random", load_format);
  if (!dump_filters.empty() && dump.empty())
    fail(ExitCode::usage, "--dump-filter without --dump: give --dump DIR too");
  if (!dtype.empty()) compute = parse_dtype(dtype);
  if (compute && compute != DType::f32 && compute != DType::bf16 && compute != DType::f64)
    fail(ExitCode::usage, "--dtype {}: computes in f32, bf16 or f64 only", dtype);
  layout_kind = layout::parse_layout(layout);
  strategy_kind = attention::parse_strategy(strategy);
  if (!trace.empty() && trace == output)
    fail(ExitCode::usage, "--trace and --output name the same file {}: give two", trace);
  constexpr std::array exchanges = {"auto", "peer", "nccl", "staged"};
  if (std::find(exchanges.begin(), exchanges.end(), exchange) == exchanges.end())
    fail(ExitCode::usage, "--exchange '{}': give one of {}", exchange, fmt::join(exchanges, ", "));
  if (page_size > 1 << 20) fail(ExitCode::usage, "--page-size {}: give at most 1048576", page_size);
}

std::vector<std::string> RunOptions::shared_settings() const {
  return {
      fmt::format("--load-format={}", load_format),
      fmt::format("--seed={}", seed),
      fmt::format("--generate={}", generate),
      fmt::format("--stop-at-eos={}", stop_at_eos),
      fmt::format("--strict={}", strict),
      fmt::format("--output={}", output.empty() ? "none" : "given"),
      fmt::format("--trace={}", trace.empty() ? "none" : "given"),
      fmt::format("--dump={}", dump.empty() ? "none" : dump),
      fmt::format("--dump-filter={}", fmt::join(dump_filters, ",")),
      fmt::format("--force={}", force),
      fmt::format("--cp={} --ulysses={} --tp={} --ep={} --dp={}", cp, ulysses, tp, ep, dp),
      fmt::format("--strategy={}", strategy),
      fmt::format("--layout={}", layout),
      fmt::format("--backend={}", backend),
      fmt::format("--dtype={}", dtype),
      fmt::format("--exchange={} --wait-in-kernel={}", exchange, wait_in_kernel),
      fmt::format("--deterministic={}", deterministic),
      fmt::format("--chunk={}", chunk),
      fmt::format("--page-size={}", page_size),
      fmt::format("--timeout={}", timeout_seconds),
      fmt::format("--two-calls={}", two_calls),
  };
}

}  // namespace longhaul::apps
