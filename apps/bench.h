#pragma once
// The benchmarks of `longhaul bench`, one file each (bench_<name>.cpp), declared like subcommands.
// Each prints the machine's ceilings measured in the same run, then its figures as ratios to them.

#include <vector>

#include "apps/command.h"

namespace longhaul::apps {

Action add_bench_attention(CLI::App& app);
Action add_bench_linear(CLI::App& app);
Action add_bench_prefill(CLI::App& app);

// Samples of one figure, in seconds.
struct Timing {
  double median = 0, min = 0, max = 0;
};
Timing summarise(std::vector<double> seconds);

}  // namespace longhaul::apps
