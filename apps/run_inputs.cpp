#include "apps/run_inputs.h"

#include <algorithm>
#include <utility>

#include "runtime/core/log.h"
#include "runtime/io/atomic_file.h"
#include "runtime/model/stage_times.h"

namespace longhaul::apps {
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;

void check_lengths(const RunInputs& inputs, const RunOptions& o, bool speaks) {
  const int64_t most = inputs.config.max_position_embeddings;
  if (most <= 0) return;
  for (const io::Prompt& p : inputs.prompts) {
    const int64_t length = static_cast<int64_t>(p.tokens.size()) + std::max<int64_t>(o.generate, 0);
    if (length <= most) continue;
    const std::string message = fmt::format(
        "prompt '{}' has {} tokens and {} to generate, but the model was made for {} positions "
        "(max_position_embeddings)",
        p.id, p.tokens.size(), o.generate, most);
    if (o.strict) fail(ExitCode::usage, "{}; shorten it, or leave out --strict", message);
    if (speaks) spdlog::warn("{}; answers beyond them may be poor", message);
  }
}

std::string all_tokens(const std::vector<io::Prompt>& prompts) {
  std::string bytes;
  for (const io::Prompt& p : prompts) {
    bytes += fmt::format("{}:", p.tokens.size());
    bytes.append(reinterpret_cast<const char*>(p.tokens.data()), p.tokens.size() * sizeof(int32_t));
  }
  return bytes;
}

// Content as a short readable stand-in: what differs is told by name, not by value.
std::string digest(const std::string& bytes) {
  return fmt::format("{:016x}", std::hash<std::string>{}(bytes));
}

}  // namespace

std::vector<std::vector<int32_t>> RunInputs::token_lists() const {
  std::vector<std::vector<int32_t>> lists;
  for (const io::Prompt& p : prompts) lists.push_back(p.tokens);
  return lists;
}

RunInputs read_inputs(const RunOptions& o, bool speaks) {
  RunInputs in;
  in.config = io::read_model_config(o.model);
  in.config_json = io::read_small_file(o.model / "config.json", kMaxConfigBytes);
  for (const std::string& key : in.config.unknown_keys)
    if (speaks) spdlog::warn("config.json: '{}' is not known to longhaul and has no effect", key);
  std::string no_tokenizer;
  in.tokenizer = io::load_tokenizer_if_supported(o.model, in.config.vocab_size, no_tokenizer);
  in.prompts = io::read_prompts(o.prompts, in.tokenizer.get(), in.config.vocab_size, no_tokenizer);
  check_lengths(in, o, speaks);
  in.checkpoint = o.load_format == "random" ? io::make_random_checkpoint(in.config, o.seed)
                                            : io::open_safetensors(o.model);
  for (const std::string& setting : o.shared_settings())
    in.common.push_back({"the option", setting});
  in.common.push_back({"config.json", digest(in.config_json)});
  in.common.push_back({"the prompt file's content", digest(all_tokens(in.prompts))});
  in.common.push_back({"the checkpoint's content",
                       fmt::format("{:016x}", in.checkpoint->fingerprint()), ExitCode::mismatch});
  return in;
}

attention::AttentionDesc attention_desc(const io::ModelConfig& config, const RunOptions& o,
                                        DeviceKind device) {
  attention::AttentionDesc desc;
  desc.dtype = o.compute ? *o.compute : model::default_dtype(config, device);
  desc.head_dim = config.head_dim;
  desc.head_dim_v = config.head_dim;
  desc.causal = true;
  return desc;
}

std::unique_ptr<model::Executor> load_model(const RunInputs& in, const RunOptions& o, DType compute,
                                            attention::Backend& backend, ThreadPool& pool,
                                            Progress& progress, double& seconds) {
  model::StageTimer timer(seconds);
  model::ExecutorOptions options;
  options.attention = {o.strategy_kind, o.two_calls};
  options.page_size = o.page_size;
  options.exchange = o.exchange;
  options.wait_in_kernel = o.wait_in_kernel;
  options.deterministic = o.deterministic;
  auto executor =
      model::make_executor(in.config, *in.checkpoint, compute, backend, pool, progress, options);
  const std::vector<std::string> unused = in.checkpoint->unused();
  for (size_t i = 0; i < unused.size(); ++i) {
    if (i == 8) {
      spdlog::info("checkpoint: and {} more tensors that this model does not use",
                   unused.size() - i);
      break;
    }
    spdlog::info("checkpoint: tensor {} is not used by this model", unused[i]);
  }
  return executor;
}

}  // namespace longhaul::apps
