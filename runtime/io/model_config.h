#pragma once
// config.json of a Hugging Face checkpoint, old and new spellings, as longhaul understands it.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/dtype.h"
#include "runtime/ops/rope.h"

namespace longhaul::io {

struct MoeConfig {
  int num_experts = 0;  // 0: no experts in this model
  int num_experts_per_tok = 0;
  int64_t intermediate_size = 0;  // of one expert
  bool norm_topk_prob = false;
};

struct ModelConfig {
  std::string model_type;  // llama, qwen2, qwen3, qwen3_moe
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of dense layers
  int num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;  // standard deviation of random weights
  bool tie_word_embeddings = false;
  bool qk_norm = false;  // per-head RMSNorm of q and k before RoPE (Qwen3)
  bool qkv_bias = false;
  bool output_bias = false;  // bias on o_proj
  bool mlp_bias = false;     // biases on gate, up and down_proj of dense layers
  ops::RopeParameters rope;
  MoeConfig moe;
  std::vector<bool> layer_is_sparse;      // [num_layers] experts instead of a dense MLP
  DType stored_dtype = DType::f32;        // dtype / torch_dtype; f32 when absent
  std::vector<int64_t> eos_token_ids;     // config.json's, then generation_config.json's others
  std::vector<std::string> unknown_keys;  // keys of config.json that nothing here reads
};

// Reads DIR/config.json, and DIR/generation_config.json where there is one; `model_dir` may also be
// the config file itself. A key that is absent or null has the default of transformers' config
// class. Throws Error(usage) where there is none and for what longhaul does not run (model_type,
// activation, rope type, sliding window, quantized weights), by name; Error(corrupt) for unreadable
// or malformed files and for values that make no sense.
ModelConfig read_model_config(const std::filesystem::path& model_dir);

// The same from text; `generation_json` may be empty. `where` stands for the file in messages.
ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_json,
                               const std::string& where);

}  // namespace longhaul::io
