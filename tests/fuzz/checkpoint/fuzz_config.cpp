// config.json, and generation_config.json behind a newline and a '#' line.

#include "runtime/io/model_tensors.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {
namespace {

constexpr std::string_view kSeparator = "\n#\n";

// What the model relies on.
void check_accepted(const io::ModelConfig& config) {
  require(config.vocab_size > 0 && config.hidden_size > 0 && config.num_layers > 0, "a size of 0");
  require(config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads == 0,
          "heads that do not divide");
  require(config.head_dim > 0 && config.head_dim % 2 == 0, "an odd head_dim");
  require(config.layer_is_sparse.size() == static_cast<size_t>(config.num_layers), "a layer lacks");
  for (bool sparse : config.layer_is_sparse)
    require(!sparse || (config.moe.num_experts >= config.moe.num_experts_per_tok &&
                        config.moe.num_experts_per_tok > 0 && config.moe.intermediate_size > 0),
            "a sparse layer without experts");
  require(config.rope.theta > 1, "a rope that divides by zero");
  require(config.rope.type == ops::RopeType::standard ||
              (config.rope.factor > 0 && config.rope.original_max_position_embeddings > 0),
          "a scaled rope that divides by zero");
  for (int64_t id : config.eos_token_ids)
    require(id >= 0 && id < config.vocab_size, "an end-of-text id outside the vocabulary");
  if (int64_t{config.num_layers} * (config.moe.num_experts + 1) > 2000) return;
  for (const io::TensorSpec& spec : io::model_tensors(config))
    for (int64_t dim : spec.shape.dims()) require(dim > 0, "a dimension of 0");
}

}  // namespace

std::vector<std::string> seeds() {
  return {
      R"({"model_type":"qwen3","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,)"
      R"("num_key_value_heads":2,"head_dim":16,"vocab_size":256,"rope_theta":10000.0,)"
      R"("rope_scaling":null,"torch_dtype":"bfloat16","eos_token_id":2})",
      R"({"model_type":"qwen3_moe","num_local_experts":8,"num_experts_per_tok":2,)"
      R"("num_hidden_layers":4,"decoder_sparse_step":2,"mlp_only_layers":[1],"norm_topk_prob":true,)"
      R"("rope_parameters":{"rope_type":"default","rope_theta":1e6},"dtype":"float16"})"
      "\n#\n"
      R"({"eos_token_id":[1,2]})",
      R"({"model_type":"llama","attention_bias":true,"mlp_bias":true,"tie_word_embeddings":true,)"
      R"("rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
      R"("high_freq_factor":4.0,"original_max_position_embeddings":8192}})",
      R"({"model_type":"qwen2","use_sliding_window":true,"max_window_layers":99,)"
      R"("layer_types":["full_attention"],"num_hidden_layers":1,"rope_scaling":{"type":"yarn",)"
      R"("factor":4,"mscale":0.7,"mscale_all_dim":1,"truncate":false,"attention_factor":1.2}})",
  };
}

std::vector<std::string> words() {
  return {"\"num_experts\"",
          "\"head_dim\"",
          "\"sliding_window\"",
          "\"use_sliding_window\"",
          "\"layer_types\"",
          "\"quantization_config\"",
          "\"hidden_act\"",
          "\"gelu\"",
          "\"linear\"",
          "\"partial_rotary_factor\"",
          "\"num_key_value_heads\"",
          "\"original_max_position_embeddings\"",
          "0",
          "-1",
          "1",
          "3",
          "2147483647",
          "2147483648",
          "9223372036854775808",
          "18446744073709551616",
          "1e308",
          "1e-320",
          "0.0",
          "null",
          "true",
          "false",
          "{}",
          "[]",
          "[[[[",
          "\xff",
          "\\u0000",
          ",",
          ":",
          "\"vocab_size\":",
          "\"model_type\":\"llama\","};
}

void repair(std::string&) {}

}  // namespace longhaul::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  fuzz::expect_clean([&] {
    const std::string_view text = fuzz::text_of(data, size);
    const size_t at = text.find(fuzz::kSeparator);
    const std::string_view config = text.substr(0, at);
    const std::string_view generation =
        at == std::string_view::npos ? "" : text.substr(at + fuzz::kSeparator.size());
    fuzz::check_accepted(io::parse_model_config(config, generation, "f"));
  });
  return 0;
}
