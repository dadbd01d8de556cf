// Configs that are refused: exit code 4 for damage and nonsense, 2 for what longhaul does not run.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <string>
#include <vector>

#include "runtime/io/model_config.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

struct BadConfig {
  std::string keys;  // between the braces
  std::string part;  // of the message
};

void expect_all_refused(const std::vector<BadConfig>& cases, ExitCode code) {
  for (const BadConfig& bad : cases)
    expect_refused(
        [&] { (void)io::parse_model_config("{" + bad.keys + "}", "", "dir/config.json"); }, code,
        {"dir/config.json: ", bad.part}, bad.keys);
}

const std::string kQwen3 = R"("model_type":"qwen3",)";
const std::string kMoe = R"("model_type":"qwen3_moe",)";
const std::string kLlama = R"("model_type":"llama",)";

TEST(BadConfig, MalformedFilesAreCorrupt) {
  const std::vector<std::array<std::string, 2>> cases = {
      {"", "empty"},
      {" \n\t", "empty"},
      {"model_type: qwen3", "malformed JSON at line 1, column 1"},
      {"{\"model_type\":\n \"qwen3\",\n}", "malformed JSON at line 3, column 1"},
      {"{\"model_type\":\"qwen3\"", "malformed JSON"},
      {"[]", "holds [], not an object"},
      {"\"qwen3\"", "holds \"qwen3\""},
      {"null", "holds null"},
      {"{\"a\":\"\xff\"}", "not UTF-8 at byte 6"},
      {R"({"model_type":"qwen3","model_type":"llama"})", "'model_type' occurs twice"},
      {R"({"model_type":"qwen3","rope_scaling":{"factor":1,"factor":2}})", "'factor' occurs twice"},
      {"{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", "deeper than 16"},
      {R"({"model_type":"qwen3","rope_theta":NaN})", "malformed JSON"},
      {R"({"model_type":"qwen3","rope_theta":1e400})", "malformed JSON"},
      {"{}", "no model_type"},
      {R"({"model_type":null})", "no model_type"},
      {R"({"model_type":7})", "model_type is 7; it must be a string"},
      {R"({"model_type":"qwen3"} x)", "malformed JSON"},
      {std::string("{\"model_type\":\"qwen3\"}\0", 23), "malformed JSON"},
  };
  for (const auto& [text, part] : cases)
    expect_refused([&] { (void)io::parse_model_config(text, "", "dir/config.json"); },
                   ExitCode::corrupt, {"dir/config.json: ", part}, text.substr(0, 60));
}

TEST(BadConfig, ValuesOfAnotherTypeAreCorrupt) {
  expect_all_refused(
      {{kQwen3 + R"("hidden_size":"64")", "hidden_size is \"64\"; it must be a whole number"},
       {kQwen3 + R"("hidden_size":64.0)", "hidden_size is 64.0"},
       {kQwen3 + R"("hidden_size":[64])", "hidden_size is [64]"},
       {kQwen3 + R"("hidden_size":{})", "hidden_size is an object"},
       {kQwen3 + R"("num_hidden_layers":true)", "num_hidden_layers is true"},
       {kQwen3 + R"("rms_norm_eps":"1e-6")", "rms_norm_eps is \"1e-6\"; it must be a number"},
       {kQwen3 + R"("tie_word_embeddings":1)",
        "tie_word_embeddings is 1; it must be true or false"},
       {kQwen3 + R"("attention_bias":"false")", "attention_bias is \"false\""},
       {kQwen3 + R"("hidden_act":7)", "hidden_act is 7"},
       {kQwen3 + R"("dtype":16)", "dtype is 16"},
       {kQwen3 + R"("rope_scaling":"yarn")", "rope_scaling is \"yarn\"; it must be an object"},
       {kQwen3 + R"("rope_parameters":[1])", "rope_parameters is [1]"},
       {kQwen3 + R"("rope_scaling":{"type":4})", "rope_scaling.type is 4"},
       {kQwen3 + R"("eos_token_id":"</s>")", "eos_token_id is \"</s>\""},
       {kQwen3 + R"("eos_token_id":[1,"2"])", "eos_token_id holds \"2\""},
       {kQwen3 + R"("layer_types":"full_attention")", "layer_types is \"full_attention\""},
       {kMoe + R"("mlp_only_layers":"0")", "mlp_only_layers is \"0\""},
       {kMoe + R"("mlp_only_layers":[0.5])", "mlp_only_layers holds 0.5"},
       {kMoe + R"("norm_topk_prob":1)", "norm_topk_prob is 1"}},
      ExitCode::corrupt);
}

TEST(BadConfig, ValuesThatMakeNoSenseAreCorrupt) {
  expect_all_refused(
      {{kQwen3 + R"("vocab_size":0)", "vocab_size is 0; it must be from 1 to 2147483647"},
       {kQwen3 + R"("vocab_size":2147483648)", "vocab_size is 2147483648"},
       {kQwen3 + R"("hidden_size":-64)", "hidden_size is -64"},
       {kQwen3 + R"("hidden_size":18446744073709551615)", "hidden_size is 18446744073709551615"},
       {kQwen3 + R"("hidden_size":99999999999999999999)", "hidden_size is 1e+20"},
       {kQwen3 + R"("intermediate_size":0)", "intermediate_size is 0"},
       {kQwen3 + R"("num_hidden_layers":0)", "num_hidden_layers is 0"},
       {kQwen3 + R"("num_hidden_layers":2000000000)", "num_hidden_layers is 2000000000"},
       {kQwen3 + R"("num_attention_heads":0)", "num_attention_heads is 0"},
       {kQwen3 + R"("num_key_value_heads":0)", "num_key_value_heads is 0"},
       {kQwen3 + R"("num_attention_heads":8,"num_key_value_heads":3)",
        "num_attention_heads (8) is no multiple of num_key_value_heads (3)"},
       {kQwen3 + R"("num_attention_heads":8)", "num_key_value_heads (32, qwen3's default)"},
       {kQwen3 + R"("num_attention_heads":2,"num_key_value_heads":4)", "no multiple"},
       {kQwen3 + R"("head_dim":0)", "head_dim is 0"},
       {kQwen3 + R"("head_dim":33)", "head_dim is 33; rotary embedding needs an even one"},
       {kQwen3 + R"("head_dim":1000000)", "head_dim is 1000000"},
       {kQwen3 + R"("num_attention_heads":1000000,"num_key_value_heads":1,"head_dim":4096)",
        "is past 2147483647"},
       {kLlama + R"("hidden_size":65,"num_attention_heads":4)",
        "hidden_size (65) is no multiple of num_attention_heads (4)"},
       {kLlama + R"("hidden_size":12,"num_attention_heads":4)", "head_dim is 3"},
       {kLlama + R"("hidden_size":2,"num_attention_heads":4)", "no multiple"},
       {kQwen3 + R"("max_position_embeddings":0)", "max_position_embeddings is 0"},
       {kQwen3 + R"("rms_norm_eps":-1e-6)", "rms_norm_eps is -1e-06"},
       {kQwen3 + R"("rms_norm_eps":2)", "rms_norm_eps is 2"},
       {kQwen3 + R"("initializer_range":-0.02)", "initializer_range is -0.02"},
       {kQwen3 + R"("rope_theta":0)", "rope_theta is 0"},
       {kQwen3 + R"("rope_theta":1)", "rope_theta is 1"},
       {kQwen3 + R"("rope_theta":1e300)", "rope_theta is 1e+300"},
       {kQwen3 + R"("rope_parameters":{"rope_theta":-10000.0})", "rope_parameters.rope_theta is"},
       {kQwen3 + R"("num_hidden_layers":2,"layer_types":["full_attention"])", "each of 2 layers"},
       {kMoe + R"("num_experts":-1)", "num_experts is -1"},
       {kMoe + R"("num_experts":4,"num_local_experts":8)",
        "num_experts is 4 but num_local_experts is 8"},
       {kMoe + R"("num_experts":4,"num_experts_per_tok":5)",
        "num_experts_per_tok is 5 but there are only 4 experts"},
       {kMoe + R"("num_experts":60000,"num_hidden_layers":17)",
        "num_experts (60000) times num_hidden_layers (17) is past 1000000"},
       {kMoe + R"("num_experts_per_tok":0)", "num_experts_per_tok is 0"},
       {kMoe + R"("moe_intermediate_size":0)", "moe_intermediate_size is 0"},
       {kMoe + R"("decoder_sparse_step":0)", "decoder_sparse_step is 0"},
       {kLlama +
            R"("rope_scaling":{"rope_type":"llama3","low_freq_factor":1,"high_freq_factor":4})",
        "rope_scaling.factor is not given; this rope type needs it"},
       {kLlama +
            R"("rope_scaling":{"type":"llama3","factor":0,"low_freq_factor":1,"high_freq_factor":4})",
        "rope_scaling.factor is 0"},
       {kLlama +
            R"("rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4})",
        "rope_scaling.high_freq_factor is 4; it must be above low_freq_factor (4)"},
       {kQwen3 + R"("rope_scaling":{"type":"yarn"})", "rope_scaling.factor is not given"},
       {kQwen3 + R"("rope_scaling":{"type":"yarn","factor":4,"attention_factor":0})",
        "rope_scaling.attention_factor is 0"},
       {kQwen3 + R"("rope_scaling":{"type":"yarn","factor":4,"beta_fast":-1})", "beta_fast is -1"},
       {kQwen3 + R"("rope_scaling":{"type":"yarn","factor":4,"truncate":0})", "truncate is 0"},
       {kQwen3 +
            R"("rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":0})",
        "original_max_position_embeddings is 0"}},
      ExitCode::corrupt);
}

TEST(BadConfig, WhatIsNotRunIsAUsageErrorByName) {
  expect_all_refused(
      {{R"("model_type":"deepseek_v3")",
        "model_type is 'deepseek_v3'; longhaul runs llama, qwen2, qwen3, qwen3_moe"},
       {R"("model_type":"qwen2_moe")", "the nearest is qwen"},
       {R"("model_type":"Llama")", "the nearest is llama"},
       {R"("model_type":"qwen_moe")", "the nearest is qwen3_moe"},
       {R"("model_type":"")", "model_type is ''"},
       {R"("model_type":"qw\nen")", "'qw\\x0aen'"},
       {kLlama + R"("hidden_act":"gelu")", "hidden_act is 'gelu'; longhaul runs silu only"},
       {kLlama + R"("hidden_act":"relu2")", "hidden_act is 'relu2'"},
       {kQwen3 + R"("rope_scaling":{"type":"linear","factor":2})",
        "rope_scaling.type is 'linear'; longhaul runs default, llama3 and yarn"},
       {kQwen3 + R"("rope_scaling":{"rope_type":"dynamic","type":"default"})",
        "rope_scaling.rope_type is 'dynamic'"},
       {kQwen3 + R"("rope_parameters":{"rope_type":"longrope"})",
        "rope_parameters.rope_type is 'longrope'"},
       {kQwen3 + R"("rope_scaling":{"type":"mrope","mrope_section":[16,24,24]})", "'mrope'"},
       {kQwen3 + R"("rope_parameters":{"rope_type":"yarm"})", "did you mean yarn?"},
       {kQwen3 + R"("rope_parameters":{"full_attention":{"rope_type":"default"}})",
        "differ by layer type"},
       {kQwen3 + R"("partial_rotary_factor":0.5)", "partial_rotary_factor is 0.5"},
       {kQwen3 + R"("rope_parameters":{"partial_rotary_factor":0.25})",
        "rope_parameters.partial_rotary_factor is 0.25"},
       {kQwen3 + R"("use_sliding_window":true,"max_window_layers":0)",
        "sliding_window (4096) is in use"},
       {kQwen3 + R"("use_sliding_window":true,"sliding_window":77)",
        "sliding_window (77) is in use"},
       {kQwen3 + R"("num_hidden_layers":2,"layer_types":["full_attention","sliding_attention"])",
        "layer_types[1] is \"sliding_attention\""},
       {kQwen3 + R"("num_hidden_layers":1,"layer_types":["linear_attention"])",
        "layer_types[0] is \"linear_attention\""},
       {kMoe + R"("use_sliding_window":true)", "sliding_window (4096) is in use"},
       {kMoe + R"("use_sliding_window":true,"sliding_window":5,"max_window_layers":99)",
        "sliding_window (5) is in use"},
       {kLlama + R"("sliding_window":4096)", "sliding_window (4096) is in use"},
       {kQwen3 + R"("quantization_config":{"quant_method":"fp8"})", "quantization_config"},
       {kQwen3 + R"("dtype":"float8_e4m3fn")", "dtype is \"float8_e4m3fn\""},
       {kQwen3 + R"("torch_dtype":"int8")", "torch_dtype is \"int8\""},
       {kQwen3 + R"("use_mrope":true)", "use_mrope is true"},
       {kQwen3 + R"("per_layer_config":{"0":{}})", "per_layer_config"}},
      ExitCode::usage);
}

TEST(BadConfig, ABadGenerationConfigIsNamed) {
  for (const std::string text : {"{", "[]", R"({"eos_token_id":"x"})", R"({"a":1,"a":2})"})
    expect_refused(
        [&] {
          (void)io::parse_model_config("{" + kQwen3 + "\"vocab_size\":9}", text, "dir/config.json");
        },
        ExitCode::corrupt, {"dir/generation_config.json: "}, text);
}

TEST(BadConfig, FilesThatCannotBeRead) {
  const TemporaryFolder dir;
  const auto read = [](const std::filesystem::path& path) {
    return [path] { (void)io::read_model_config(path); };
  };
  expect_refused(read(dir / "nowhere"), ExitCode::usage, {"nowhere", "no such model folder"},
                 "none");
  expect_refused(read(dir.path()), ExitCode::usage, {"there is no config.json"}, "empty folder");
  ASSERT_EQ(::mkfifo((dir / "config.json").c_str(), 0600), 0);
  expect_refused(read(dir.path()), ExitCode::corrupt, {"not a regular file"}, "a pipe");
  std::filesystem::remove(dir / "config.json");
  std::filesystem::create_directory(dir / "config.json");
  expect_refused(read(dir.path()), ExitCode::corrupt, {"not a regular file"}, "a folder");
  std::filesystem::remove(dir / "config.json");
  write_bytes(dir / "config.json", std::string((16 << 20) + 1, ' '));
  expect_refused(read(dir.path()), ExitCode::corrupt, {"16777217 bytes"}, "too large");
}

}  // namespace
}  // namespace longhaul::test
