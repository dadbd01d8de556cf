#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/bench_prefill.h"

namespace longhaul::apps {
namespace {

std::string lengths_of(const PrefillSeries& s) {
  if (s.lengths.size() > 4) return fmt::format("{} prompts", s.lengths.size());
  return fmt::format("{}", fmt::join(s.lengths, ","));
}

}  // namespace

const PrefillSeries& first_of(const std::vector<PrefillSeries>& all, const PrefillSeries& s) {
  return *std::find_if(all.begin(), all.end(),
                       [&](const PrefillSeries& x) { return x.lengths == s.lengths; });
}

std::string prefill_table(const PrefillBench& o, const std::vector<PrefillSeries>& series,
                          const PrefillMachine& m) {
  std::string text;
  auto to = std::back_inserter(text);
  fmt::format_to(to,
                 "# prefill on {}, {} thread(s) a rank, {}, layout {}; up to {} runs, in turn\n",
                 m.device.empty() ? "CPU cores" : m.device, o.threads, o.dtype, o.layout, o.repeat);
  if (m.matmul > 0)
    fmt::format_to(to,
                   "# a bf16 product of 8192^3: {:.0f} TFLOP/s in the same run; most GPU memory in "
                   "use: {:.1f} GB\n",
                   m.matmul, m.memory_gb);
  fmt::format_to(to, "{:>6} {:>16} {:>10} {:>10} {:>10} {:>11} {:>9} {:>13} {:>12} {:>10}", "ranks",
                 "lengths", "median ms", "min ms", "max ms", "tokens/s", "speed-up", "attention ms",
                 "exposed ms", "area imb.");
  fmt::format_to(to, " {:>13} {:>9} {:>7}\n", "TFLOP/s/rank", "of matmul", "same?");
  for (const PrefillSeries& s : series) {
    const PrefillSeries& first = first_of(series, s);
    const Timing t = summarise(s.seconds);
    fmt::format_to(
        to,
        "{:>6} {:>16} {:>10.1f} {:>10.1f} {:>10.1f} {:>11.0f} {:>9.2f} {:>13.1f} {:>12.1f} "
        "{:>10.4f} {:>13.2f} {:>9} {:>7}\n",
        s.ranks, lengths_of(s), 1e3 * t.median, 1e3 * t.min, 1e3 * t.max, s.num_tokens() / t.median,
        summarise(first.seconds).median / t.median, 1e3 * s.attention, 1e3 * s.exposed,
        s.imbalance.area, s.tflops_per_rank(),
        m.matmul > 0 ? fmt::format("{:.3f}", s.tflops_per_rank() / m.matmul) : "-",
        s.tokens == first.tokens ? "yes" : "NO");
  }
  return text;
}

std::string prefill_json(const PrefillBench& o, const std::vector<PrefillSeries>& series,
                         const PrefillMachine& m) {
  nlohmann::ordered_json j;
  j["bench"] = "prefill";
  j["device"] = m.device.empty() ? "cpu" : m.device;
  j["lengths"] = o.lengths;
  j["threads"] = o.threads;
  j["dtype"] = o.dtype;
  j["layout"] = o.layout;
  j["matmul_tflops"] = m.matmul;
  j["device_memory_gb"] = m.memory_gb;
  for (const PrefillSeries& s : series) {
    const PrefillSeries& first = first_of(series, s);
    const Timing t = summarise(s.seconds);
    j["results"].push_back({{"ranks", s.ranks},
                            {"lengths", s.lengths},
                            {"runs", s.seconds.size()},
                            {"median_ms", 1e3 * t.median},
                            {"min_ms", 1e3 * t.min},
                            {"max_ms", 1e3 * t.max},
                            {"tokens_per_s", s.num_tokens() / t.median},
                            {"speed_up", summarise(first.seconds).median / t.median},
                            {"attention_ms", 1e3 * s.attention},
                            {"exchange_exposed_ms", 1e3 * s.exposed},
                            {"area_imbalance", s.imbalance.area},
                            {"tflops_per_rank", s.tflops_per_rank()},
                            {"of_matmul", m.matmul > 0 ? s.tflops_per_rank() / m.matmul : 0},
                            {"same_tokens", s.tokens == first.tokens}});
  }
  return j.dump(2) + "\n";
}

}  // namespace longhaul::apps
