#pragma once
// What `longhaul run` reads before it computes: model, tokenizer, prompts.

#include <memory>
#include <string>
#include <vector>

#include "apps/agreement.h"
#include "apps/run_options.h"
#include "attention/backend.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/model_config.h"
#include "runtime/io/prompts.h"
#include "runtime/io/tokenizer.h"
#include "runtime/model/make_executor.h"

namespace longhaul::apps {

struct RunInputs {
  io::ModelConfig config;
  std::string config_json;                   // the file's text
  std::unique_ptr<io::Tokenizer> tokenizer;  // null: token ids only
  std::vector<io::Prompt> prompts;
  std::unique_ptr<io::Checkpoint> checkpoint;
  std::vector<Common> common;  // what all ranks must agree on

  std::vector<std::vector<int32_t>> token_lists() const;
};

// Throws for everything a person can get wrong in the model folder and the prompt file. Warnings
// come from the rank that `speaks`.
RunInputs read_inputs(const RunOptions& options, bool speaks);

// What attention must do on a device; an unset --dtype becomes the device's default.
attention::AttentionDesc attention_desc(const io::ModelConfig& config, const RunOptions& options,
                                        DeviceKind device);

// Reads the weights onto the backend's device; adds the seconds it took.
std::unique_ptr<model::Executor> load_model(const RunInputs& inputs, const RunOptions& options,
                                            DType compute, attention::Backend& backend,
                                            ThreadPool& pool, Progress& progress, double& seconds);

}  // namespace longhaul::apps
