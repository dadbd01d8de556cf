// config.json of published models, typed in from their model cards, and the sizes they must give:
// the parameter counts are the published ones.

#include <gtest/gtest.h>

#include <string>

#include "runtime/io/model_tensors.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

int64_t parameters(const io::ModelConfig& config) {
  int64_t n = 0;
  for (const io::TensorSpec& spec : io::model_tensors(config)) n += spec.shape.num_elements();
  return n;
}

io::ModelConfig parse(const std::string& text) {
  io::ModelConfig config = io::parse_model_config(text, "", "config.json");
  EXPECT_TRUE(config.unknown_keys.empty()) << config.unknown_keys.front();
  return config;
}

TEST(PublishedConfigs, Qwen3_06B) {
  const io::ModelConfig c = parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})");
  EXPECT_EQ(parameters(c), 596'049'920);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_EQ(c.stored_dtype, DType::bf16);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{151645});
}

TEST(PublishedConfigs, Qwen3_30B_A3B) {
  const io::ModelConfig c = parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
    "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
    "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})");
  EXPECT_EQ(parameters(c), 30'532'122'624);
  EXPECT_EQ(c.moe.num_experts, 128);
  EXPECT_TRUE(c.moe.norm_topk_prob);
  EXPECT_EQ(c.layer_is_sparse, std::vector<bool>(48, true));
}

TEST(PublishedConfigs, Llama31_8B) {
  const io::ModelConfig c = parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": true,
    "vocab_size": 128256})");
  EXPECT_EQ(parameters(c), 8'030'261'248);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.rope.type, ops::RopeType::llama3);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 8192);
  EXPECT_EQ(c.eos_token_ids.size(), 3U);
}

TEST(PublishedConfigs, Qwen25_7B) {
  const io::ModelConfig c = parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
    "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
    "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false,
    "use_sliding_window": false, "vocab_size": 152064})");
  EXPECT_EQ(parameters(c), 7'615'616'512);
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.output_bias);
}

// The first Llama, from before grouped heads: no num_key_value_heads, no rope keys, float16.
TEST(PublishedConfigs, Llama1_7B) {
  const io::ModelConfig c = parse(R"({
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
    "initializer_range": 0.02, "max_position_embeddings": 2048, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": -1, "rms_norm_eps": 1e-06,
    "torch_dtype": "float16", "transformers_version": "4.28.0.dev0", "use_cache": true,
    "vocab_size": 32000})");
  EXPECT_EQ(parameters(c), 6'738'415'616);
  EXPECT_EQ(c.num_kv_heads, 32);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.stored_dtype, DType::f16);
}

TEST(PublishedConfigs, DeepSeekV3IsRefusedByName) {
  expect_refused(
      [] {
        (void)io::parse_model_config(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "model_type": "deepseek_v3", "n_routed_experts": 256, "n_shared_experts": 1,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "torch_dtype": "bfloat16", "vocab_size": 129280})",
                                     "", "config.json");
      },
      ExitCode::usage, {"'deepseek_v3'", "llama, qwen2, qwen3, qwen3_moe"}, "DeepSeek");
}

}  // namespace
}  // namespace longhaul::test
