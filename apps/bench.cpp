// longhaul bench: which benchmark to run.

#include "apps/bench.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul::apps {

Timing summarise(std::vector<double> seconds) {
  LH_CHECK(!seconds.empty());
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  return {(seconds[(n - 1) / 2] + seconds[n / 2]) / 2, seconds.front(), seconds.back()};
}

Action add_bench_command(CLI::App& app) {
  app.require_subcommand(1);
  auto commands = std::make_shared<std::vector<std::pair<CLI::App*, Action>>>();
  const auto add = [&](const char* name, const char* summary, Action (*declare)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, summary);
    commands->emplace_back(sub, declare(*sub));
  };
  add("attention", "an attention backend on one rank", add_bench_attention);
  add("linear", "dense layers on one rank", add_bench_linear);
  add("prefill", "whole prefills on 1, 2, ... of the ranks, in turn", add_bench_prefill);
  return [commands] {
    for (auto& [sub, action] : *commands)
      if (sub->parsed()) return action();
    return static_cast<int>(ExitCode::usage);
  };
}

}  // namespace longhaul::apps
