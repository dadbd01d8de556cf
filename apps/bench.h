#pragma once
// The benchmarks of `longhaul bench`, one file each (bench_<name>.cpp), declared like subcommands.
// Each prints the machine's ceilings measured in the same run, then its figures as ratios to them.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/command.h"

namespace longhaul::apps {

Action add_bench_attention(CLI::App& app);
Action add_bench_comm(CLI::App& app);
Action add_bench_linear(CLI::App& app);
Action add_bench_moe(CLI::App& app);
Action add_bench_prefill(CLI::App& app);

// Samples of one figure, in seconds.
struct Timing {
  double median = 0, min = 0, max = 0;
};
Timing summarise(std::vector<double> seconds);

// For ->check(): a whole number in [least, most], refused in one line of words.
CLI::Validator whole_number(int64_t least, int64_t most);
// Seconds for --timeout.
CLI::Validator timeout_seconds();
// The dtypes that are computed in.
CLI::Validator compute_dtype();

inline constexpr int64_t kMostTokens = int64_t{1} << 31;
inline constexpr int64_t kMostThreads = 1024;
inline constexpr int64_t kMostRepeats = 100000;

// Query and KV heads of "32/4" ("32": as many KV heads). Throws Error(usage).
struct Heads {
  int64_t query = 0, kv = 0;
};
Heads parse_heads(const std::string& text);

// Bytes of "64", "64K", "1M" or "1G" (powers of 1024). Throws Error(usage), naming `option`.
int64_t parse_bytes(const char* option, const std::string& text);

// Writes all of the text to stdout, or throws Error(resource).
void print_results(const std::string& text);

}  // namespace longhaul::apps
