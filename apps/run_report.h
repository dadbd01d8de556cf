#pragma once
// What `longhaul run` tells: tables on stdout, JSON for --output.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/run_options.h"
#include "comm/communicator.h"
#include "runtime/io/prompts.h"
#include "runtime/model/engine.h"

namespace longhaul::apps {

// Figures of one rank, sent to rank 0. Trivially copyable.
struct RankFigures {
  model::StageTimes times;
  int64_t sent_bytes = 0;
  int64_t received_bytes = 0;
  int64_t weights_bytes = 0;
  int64_t tensor_peak_bytes = 0;  // everything but weights
  int64_t kv_cache_bytes = 0;
  int threads = 1;
  double flops = 0;            // of the prefill
  double attention_flops = 0;  // part of it
  double matmul_ceiling = 0;   // TFLOP/s; 0: not known
  char host[64] = {};
  char device[64] = {};  // empty: CPU cores
};

struct RunSummary {
  std::vector<io::Prompt> prompts;
  std::vector<std::vector<int32_t>> generated;
  std::vector<std::string> texts;  // decoded; empty where the model has no tokenizer
  bool has_text = false;
  model::RunResult result;
  std::vector<RankFigures> ranks;  // [num ranks], on rank 0
  std::string backend;
  std::string dtype;
  std::string model;
  double load_seconds = 0;
  double wall_seconds = 0;  // load, prefill and generation

  // A prompt that came with an answer is judged once some text was generated: right when the
  // generated text begins with the answer.
  bool has_answer(size_t i) const { return prompts[i].answer.has_value(); }
  bool judged(size_t i) const { return has_answer(i) && has_text && !generated[i].empty(); }
  bool correct(size_t i) const;
  bool all_correct() const;
  int64_t num_prompt_tokens() const;
};

// Collective: every rank's figures, in rank order, on every rank.
std::vector<RankFigures> gather_figures(comm::Communicator& comm, const RankFigures& own);

void print_report(const RunSummary& summary, const RunOptions& options);
std::string report_json(const RunSummary& summary, const RunOptions& options);

}  // namespace longhaul::apps
