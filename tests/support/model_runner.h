#pragma once
// Runs a model on N ranks that are threads of this process and captures its tensors in natural
// token order: the whole engine without a launcher.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/core/dtype.h"
#include "runtime/layout/batch_layout.h"
#include "runtime/model/engine.h"
#include "runtime/model/make_executor.h"

namespace longhaul::test {

struct RunSpec {
  std::filesystem::path model;
  std::vector<std::vector<int32_t>> prompts;
  int ranks = 1;
  int threads = 1;
  DType dtype = DType::f32;
  std::string backend;  // empty: first that can
  bool random_weights = false;
  model::EngineOptions engine;
  model::ExecutorOptions executor;
  std::function<bool(std::string_view)> wants = [](std::string_view) { return true; };
};

// Rows of one tensor of one sequence, positions 0, 1, ...; every value as double.
struct CapturedRows {
  std::vector<int64_t> row_shape;
  int64_t row_elements = 0;
  std::vector<double> values;      // [positions, row_elements], NaN where nothing came
  std::vector<int> times_written;  // [positions]
};

struct RunOutput {
  std::map<std::string, std::map<int, CapturedRows>> tensors;  // name -> sequence
  model::RunResult result;
};

// Why this machine cannot run the spec's backend on its model (no GPU, a head_dim that has no
// kernel); empty where it can.
std::string why_backend_cannot_run(const RunSpec& spec);

// Throws what a rank threw. Checks that ranks agree on the generated tokens.
RunOutput run_on_threads(const RunSpec& spec);

std::vector<std::vector<int32_t>> read_token_lists(const std::filesystem::path& prompts_json);

// Largest |a - b| over the RMS of b, over the given rows; infinity where either is not finite.
double error_over_rms(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace longhaul::test
