#pragma once
// What `longhaul run` is asked to do.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "attention/context_parallel.h"
#include "runtime/core/dtype.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::apps {

struct RunOptions {
  std::filesystem::path model;
  std::filesystem::path prompts;
  std::string load_format = "auto";
  uint64_t seed = 0;

  int64_t generate = 0;
  bool stop_at_eos = false;
  bool strict = false;

  std::string output;  // empty: none
  std::string dump;    // empty: none
  std::string trace;   // empty: none
  std::vector<std::string> dump_filters;
  bool force = false;

  int dp = 0, cp = 0, ulysses = 0, tp = 0, ep = 0;  // 0: not given
  std::string strategy = "allgather";
  std::string layout = "balanced";
  std::string backend;  // empty: first of the priority list that can
  std::string dtype;    // empty: the device's default
  int64_t chunk = 0;
  int64_t page_size = 64;
  std::string exchange = "auto";
  bool wait_in_kernel = false;
  bool deterministic = false;
  int threads = 0;  // 0: what the affinity mask and the neighbours leave
  double timeout_seconds = 60;
  bool two_calls = false;
  std::string command_line;  // as given, for the records

  // Checked forms of the names above, set by check().
  layout::LayoutKind layout_kind = layout::LayoutKind::balanced;
  attention::Strategy strategy_kind = attention::Strategy::allgather;
  std::optional<DType> compute;  // unset: the device's default

  void declare(CLI::App& app);
  // Everything that can be wrong without looking at files or other ranks: Error(usage).
  void check();
  // The settings that all ranks must share, one a line ("layout=zigzag").
  std::vector<std::string> shared_settings() const;
};

}  // namespace longhaul::apps
