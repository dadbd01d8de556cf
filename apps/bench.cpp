// longhaul bench: which benchmark to run, and what they share.

#include "apps/bench.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul::apps {
namespace {

// The whole of the text as a number.
template <class T>
bool read_number(const std::string& text, T* value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *value);
  return result.ec == std::errc() && result.ptr == end;
}

}  // namespace

Timing summarise(std::vector<double> seconds) {
  LH_CHECK(!seconds.empty());
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  return {(seconds[(n - 1) / 2] + seconds[n / 2]) / 2, seconds.front(), seconds.back()};
}

CLI::Validator whole_number(int64_t least, int64_t most) {
  return CLI::Validator(
      [least, most](const std::string& text) {
        int64_t value = 0;
        if (read_number(text, &value) && value >= least && value <= most) return std::string();
        return fmt::format("'{}': give a whole number from {} to {}", text, least, most);
      },
      "");
}

CLI::Validator timeout_seconds() {
  return CLI::Validator(
      [](const std::string& text) {
        double value = 0;
        if (read_number(text, &value) && value >= 0.5 && value <= 1e6) return std::string();
        return fmt::format("'{}': give 0.5 to 1000000 seconds", text);
      },
      "");
}

CLI::Validator compute_dtype() {
  return CLI::Validator(
      [](const std::string& text) {
        for (const char* name : {"f32", "bf16", "f64"})
          if (text == name) return std::string();
        return fmt::format("'{}': give f32, bf16 or f64", text);
      },
      "");
}

Heads parse_heads(const std::string& text) {
  constexpr int64_t kMost = 4096;
  const size_t slash = text.find('/');
  Heads h;
  const bool good = read_number(text.substr(0, slash), &h.query) &&
                    (slash == std::string::npos || read_number(text.substr(slash + 1), &h.kv));
  if (slash == std::string::npos) h.kv = h.query;
  if (!good || h.query < 1 || h.kv < 1 || h.query > kMost || h.kv > kMost)
    fail(ExitCode::usage, "--heads '{}': give QUERY/KV, for example 32/4", text);
  if (h.query % h.kv != 0)
    fail(ExitCode::usage, "--heads {}: the KV heads must divide the query heads", text);
  return h;
}

int64_t parse_bytes(const char* option, const std::string& text) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const std::string units = "KMG";
  const size_t unit = text.empty() ? std::string::npos : units.find(text.back());
  const std::string digits = text.substr(0, text.size() - (unit == std::string::npos ? 0 : 1));
  int64_t value = 0;
  const bool good = read_number(digits, &value) && value >= 1 && value <= kMost;
  const int64_t bytes = !good || unit == std::string::npos ? value : value << (10 * (unit + 1));
  if (!good || bytes > kMost)
    fail(ExitCode::usage, "{} '{}': give bytes, for example 4096, 64K, 1M or 1G", option, text);
  return bytes;
}

void print_results(const std::string& text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    fail(ExitCode::resource, "cannot write the results to stdout: {}", std::strerror(errno));
}

Action add_bench_command(CLI::App& app) {
  app.require_subcommand(1);
  auto commands = std::make_shared<std::vector<std::pair<CLI::App*, Action>>>();
  const auto add = [&](const char* name, const char* summary, Action (*declare)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, summary);
    commands->emplace_back(sub, declare(*sub));
  };
  add("attention", "attention of one rank, or of context-parallel GPUs with their exchange",
      add_bench_attention);
  add("comm", "what ranks exchange: GPUs' gathers, CPU ranks' collectives", add_bench_comm);
  add("linear", "dense layers on one CPU rank", add_bench_linear);
  add("moe", "a layer's experts on one rank, whole and by their parts", add_bench_moe);
  add("prefill", "whole prefills on 1, 2, ... of the ranks, in turn", add_bench_prefill);
  return [commands] {
    for (auto& [sub, action] : *commands)
      if (sub->parsed()) return action();
    return static_cast<int>(ExitCode::usage);
  };
}

}  // namespace longhaul::apps
