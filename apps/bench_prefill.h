#pragma once
// What `longhaul bench prefill` was asked and what it found.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "comm/communicator.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::apps {

struct PrefillBench {
  std::filesystem::path model;
  std::vector<int64_t> lengths = {16384};
  std::vector<int> ranks;  // empty: powers of two up to all, and all
  int threads = 1;
  int repeat = 3;
  int64_t chunk = 0;
  std::string dtype, layout = "balanced", backend, load_format = "auto", exchange = "auto";
  bool wait_in_kernel = false;
  double timeout = 60, seconds = 0;
  bool each = false, json = false;

  // The batches to run: all lengths together, or each for itself.
  std::vector<std::vector<int64_t>> batches() const {
    if (!each) return {lengths};
    std::vector<std::vector<int64_t>> single;
    for (int64_t length : lengths) single.push_back({length});
    return single;
  }
};

// One rank count and batch; filled on the ranks that took part.
struct PrefillSeries {
  int ranks = 1;
  std::vector<int64_t> lengths;
  comm::Communicator* comm = nullptr;  // null on ranks that sit out
  std::vector<double> seconds;         // TTFT, the slowest rank's
  double attention = 0, exposed = 0;   // seconds of the last run, the worst rank's
  double flops = 0;                    // of a rank, the mean
  layout::Imbalance imbalance;
  std::vector<std::vector<int32_t>> tokens;

  double num_tokens() const {
    double n = 0;
    for (int64_t l : lengths) n += static_cast<double>(l);
    return n;
  }
  double tflops_per_rank() const { return 1e-12 * flops / summarise(seconds).median; }
};

// What the ranks compute on.
struct PrefillMachine {
  std::string device;    // empty: CPU cores
  double matmul = 0;     // TFLOP/s of a large matrix product, mean of the ranks; 0: not known
  double memory_gb = 0;  // most that a GPU had in use, weights and libraries included
};

// The series of the same batch with the fewest ranks.
const PrefillSeries& first_of(const std::vector<PrefillSeries>& all, const PrefillSeries& series);
std::string prefill_table(const PrefillBench& bench, const std::vector<PrefillSeries>& series,
                          const PrefillMachine& machine);
std::string prefill_json(const PrefillBench& bench, const std::vector<PrefillSeries>& series,
                         const PrefillMachine& machine);

}  // namespace longhaul::apps
