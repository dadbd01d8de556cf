#include "runtime/io/model_tensors.h"

#include <string_view>
#include <utility>

namespace longhaul::io {
namespace {

class Lister {
 public:
  explicit Lister(const ModelConfig& config) : config_(config) {}

  std::vector<TensorSpec> list() {
    add("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size});
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      add(prefix + "input_layernorm.weight", {config_.hidden_size});
      attention(prefix + "self_attn.");
      add(prefix + "post_attention_layernorm.weight", {config_.hidden_size});
      if (config_.layer_is_sparse[static_cast<size_t>(layer)])
        experts(prefix + "mlp.");
      else
        mlp(prefix + "mlp.", config_.intermediate_size, config_.mlp_bias);
    }
    add("model.norm.weight", {config_.hidden_size});
    if (!config_.tie_word_embeddings)
      add("lm_head.weight", {config_.vocab_size, config_.hidden_size});
    return std::move(tensors_);
  }

 private:
  void add(std::string name, Shape shape) { tensors_.push_back({std::move(name), shape}); }

  void linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  }

  void attention(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t q = config_.num_heads * config_.head_dim;
    const int64_t kv = config_.num_kv_heads * config_.head_dim;
    linear(prefix + "q_proj", q, hidden, config_.qkv_bias);
    linear(prefix + "k_proj", kv, hidden, config_.qkv_bias);
    linear(prefix + "v_proj", kv, hidden, config_.qkv_bias);
    if (config_.qk_norm) {
      add(prefix + "q_norm.weight", {config_.head_dim});
      add(prefix + "k_norm.weight", {config_.head_dim});
    }
    linear(prefix + "o_proj", hidden, q, config_.output_bias);
  }

  void mlp(const std::string& prefix, int64_t intermediate, bool bias) {
    linear(prefix + "gate_proj", intermediate, config_.hidden_size, bias);
    linear(prefix + "up_proj", intermediate, config_.hidden_size, bias);
    linear(prefix + "down_proj", config_.hidden_size, intermediate, bias);
  }

  void experts(const std::string& prefix) {
    add(prefix + "gate.weight", {config_.moe.num_experts, config_.hidden_size});
    for (int e = 0; e < config_.moe.num_experts; ++e)
      mlp(fmt::format("{}experts.{}.", prefix, e), config_.moe.intermediate_size, false);
  }

  const ModelConfig& config_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace

std::vector<TensorSpec> model_tensors(const ModelConfig& config) {
  return Lister(config).list();
}

}  // namespace longhaul::io
