#pragma once
// config.json of a Hugging Face checkpoint, old and new spellings, as longhaul understands it.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/core/dtype.h"
#include "runtime/ops/rope.h"

namespace longhaul::io {

struct MoeConfig {
  int num_experts = 0;          // 0: no experts in this model
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
  bool tie_word_embeddings = false;
  bool qk_norm = false;         // per-head RMSNorm of q and k before RoPE (Qwen3)
  bool qkv_bias = false;
  bool output_bias = false;     // bias on o_proj
  bool mlp_bias = false;
  ops::RopeParameters rope;
  MoeConfig moe;
  std::vector<bool> layer_is_sparse;  // [num_layers] experts instead of a dense MLP
  DType stored_dtype = DType::f32;    // dtype / torch_dtype; f32 when absent
  std::vector<int64_t> eos_token_ids; // config.json, then generation_config.json
  std::vector<std::string> unknown_keys;  // keys of config.json that nothing here reads
};

// Reads DIR/config.json. Throws Error(corrupt) for unreadable or malformed files, Error(usage) for
// what longhaul does not run (model_type, activation, rope type, sliding window), by name.
ModelConfig read_model_config(const std::filesystem::path& model_dir);

}  // namespace longhaul::io
