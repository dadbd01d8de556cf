#pragma once
// The prefill loop: prompts -> steps -> layout, exchange plan, layers -> next tokens. The KV of a
// token stays on the rank that owns it; generated tokens go through the same step as prompts.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "runtime/core/progress.h"
#include "runtime/io/activation_sink.h"
#include "runtime/layout/kv_ownership.h"
#include "runtime/model/executor.h"
#include "runtime/model/flops.h"

namespace longhaul::model {

struct EngineOptions {
  layout::LayoutKind layout = layout::LayoutKind::balanced;
  int64_t chunk_tokens = 0;  // new tokens a step over the whole batch; 0: one step
  int64_t generate = 0;      // tokens to generate a sequence
  bool stop_at_eos = false;
};

// Told after every step, on every rank.
struct StepReport {
  const char* phase;  // "prefill" or "generate"
  int64_t step = 0;   // from 0 within the phase
  int64_t num_steps = 0;
  int64_t tokens_done = 0;  // prompt tokens, or tokens generated a sequence
  int64_t tokens_total = 0;
};

struct RunResult {
  std::vector<std::vector<int32_t>> generated;  // [num_sequences], the same on every rank
  double ttft_seconds = 0;   // first step's start until every sequence has its next token
  double total_seconds = 0;  // with generation
  Flops prefill_flops;       // of this rank
  StageTimes prefill_times;  // of this rank, `load` left 0
  layout::Imbalance prefill_imbalance;  // over all prefill steps together
  int64_t kv_cache_bytes = 0;           // of this rank
};

class Engine {
 public:
  // Borrows all; one run at a time. The ranks of `cp_comm` are those of the executor.
  Engine(comm::Communicator& cp_comm, Executor& executor, Progress& progress,
         EngineOptions options);

  // prompts: token ids, none empty. Collective over cp_comm.
  RunResult run(std::span<const std::vector<int32_t>> prompts, io::ActivationSink* sink,
                const std::function<void(const StepReport&)>& on_step);

 private:
  struct State;
  // One step; next_tokens[s] is set for sequences whose last known token was in it.
  void step(State& state, std::span<const layout::SequenceExtent> extents,
            std::vector<int32_t>& next_tokens);

  comm::Communicator& comm_;
  Executor& executor_;
  Progress& progress_;
  EngineOptions options_;
};

}  // namespace longhaul::model
