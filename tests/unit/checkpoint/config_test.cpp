// config.json in its spellings, the defaults of transformers' classes, and what is worked out.

#include <gtest/gtest.h>

#include <string>

#include "runtime/io/model_config.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

using io::ModelConfig;

ModelConfig parse(const std::string& keys, const std::string& generation = "") {
  return io::parse_model_config("{" + keys + "}", generation, "dir/config.json");
}
ModelConfig parse(const std::string& type, const std::string& keys, const std::string& generation) {
  return parse(R"("model_type":")" + type + "\"" + (keys.empty() ? "" : "," + keys), generation);
}

void expect_sizes(const ModelConfig& c, int64_t vocab, int64_t hidden, int64_t intermediate,
                  int layers, int64_t heads, int64_t kv_heads, int64_t head_dim,
                  int64_t positions) {
  EXPECT_EQ(c.vocab_size, vocab);
  EXPECT_EQ(c.hidden_size, hidden);
  EXPECT_EQ(c.intermediate_size, intermediate);
  EXPECT_EQ(c.num_layers, layers);
  EXPECT_EQ(c.num_heads, heads);
  EXPECT_EQ(c.num_kv_heads, kv_heads);
  EXPECT_EQ(c.head_dim, head_dim);
  EXPECT_EQ(c.max_position_embeddings, positions);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.initializer_range, 0.02);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_FALSE(c.output_bias);
  EXPECT_FALSE(c.mlp_bias);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.rope.type, ops::RopeType::standard);
  EXPECT_EQ(c.stored_dtype, DType::f32);
}

// As LlamaConfig(), Qwen2Config(), Qwen3Config() and Qwen3MoeConfig() of transformers 5.23 print.
TEST(ConfigDefaults, AreThoseOfTheClasses) {
  const ModelConfig llama = parse("llama", "", "");
  expect_sizes(llama, 32000, 4096, 11008, 32, 32, 32, 128, 2048);
  EXPECT_EQ(llama.eos_token_ids, std::vector<int64_t>{2});
  EXPECT_FALSE(llama.qkv_bias);
  EXPECT_FALSE(llama.qk_norm);
  const ModelConfig qwen2 = parse("qwen2", "", "");
  expect_sizes(qwen2, 151936, 4096, 22016, 32, 32, 32, 128, 32768);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  EXPECT_TRUE(qwen2.eos_token_ids.empty());
  const ModelConfig qwen3 = parse("qwen3", "", "");
  expect_sizes(qwen3, 151936, 4096, 22016, 32, 32, 32, 128, 32768);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.qk_norm);
  const ModelConfig moe = parse("qwen3_moe", "", "");
  expect_sizes(moe, 151936, 2048, 6144, 24, 32, 4, 64, 32768);
  EXPECT_TRUE(moe.qk_norm);
  EXPECT_EQ(moe.moe.num_experts, 128);
  EXPECT_EQ(moe.moe.num_experts_per_tok, 8);
  EXPECT_EQ(moe.moe.intermediate_size, 768);
  EXPECT_FALSE(moe.moe.norm_topk_prob);
  EXPECT_EQ(moe.layer_is_sparse, std::vector<bool>(24, true));
}

TEST(ConfigDefaults, DependOnOtherKeysWhereTheClassesSay) {
  EXPECT_EQ(parse("llama", R"("num_attention_heads":16)", "").num_kv_heads, 16);
  EXPECT_EQ(parse("llama", R"("num_attention_heads":16)", "").head_dim, 256);
  EXPECT_EQ(parse("qwen3", R"("num_attention_heads":64)", "").num_kv_heads, 32);
  EXPECT_EQ(
      parse("qwen3", R"("num_attention_heads":64,"num_key_value_heads":null)", "").num_kv_heads,
      64);
  EXPECT_EQ(parse("qwen3", R"("hidden_size":64,"num_attention_heads":32)", "").head_dim, 128);
  EXPECT_EQ(parse("qwen3_moe", R"("hidden_size":64,"num_attention_heads":4)", "").head_dim, 16);
  EXPECT_EQ(
      parse("qwen2", R"("hidden_size":64,"num_attention_heads":32,"head_dim":6)", "").head_dim, 6);
  for (const char* type : {"llama", "qwen2", "qwen3_moe"})
    EXPECT_EQ(parse(type, R"("head_dim":null,"hidden_size":320)", "").head_dim, 10) << type;
}

TEST(ConfigSpellings, NullIsAbsent) {
  const ModelConfig c = parse("qwen3",
                              R"("rope_scaling":null,"rope_parameters":null,"rope_theta":null,
      "rms_norm_eps":null,"tie_word_embeddings":null,"sliding_window":null,"layer_types":null,
      "dtype":null,"torch_dtype":null,"attention_bias":null,"eos_token_id":null,"hidden_act":null,
      "quantization_config":null,"vocab_size":null,"use_sliding_window":null)",
                              "");
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.vocab_size, 151936);
  EXPECT_TRUE(c.eos_token_ids.empty());
  EXPECT_TRUE(c.unknown_keys.empty());
}

TEST(ConfigSpellings, ExpertsAndDtype) {
  EXPECT_EQ(parse("qwen3_moe", R"("num_experts":16)", "").moe.num_experts, 16);
  EXPECT_EQ(parse("qwen3_moe", R"("num_local_experts":24)", "").moe.num_experts, 24);
  EXPECT_EQ(parse("qwen3_moe", R"("num_local_experts":24,"num_experts":24)", "").moe.num_experts,
            24);
  EXPECT_EQ(parse("qwen3", R"("torch_dtype":"bfloat16")", "").stored_dtype, DType::bf16);
  EXPECT_EQ(parse("qwen3", R"("dtype":"float16")", "").stored_dtype, DType::f16);
  EXPECT_EQ(parse("qwen3", R"("dtype":"float16","torch_dtype":"bfloat16")", "").stored_dtype,
            DType::f16);
  EXPECT_EQ(parse("qwen3", R"("torch_dtype":"torch.float64")", "").stored_dtype, DType::f64);
}

TEST(ConfigSpellings, Rope) {
  EXPECT_EQ(parse("qwen3", R"("rope_theta":1000000)", "").rope.theta, 1e6);
  EXPECT_EQ(parse("qwen3", R"("rope_parameters":{"rope_theta":5e5,"rope_type":"default"})", "")
                .rope.theta,
            5e5);
  EXPECT_EQ(parse("qwen3", R"("rope_theta":7,"rope_parameters":{"rope_theta":5})", "").rope.theta,
            5);
  EXPECT_EQ(
      parse("qwen3", R"("rope_theta":7,"rope_parameters":{"rope_type":"default"})", "").rope.theta,
      7);
  // A rope_scaling wins over rope_parameters as a whole; an empty one does not count.
  const char* both = R"("rope_theta":7,"rope_parameters":{"rope_theta":5},"rope_scaling":)";
  EXPECT_EQ(parse("qwen3", std::string(both) + R"({"type":"default"})", "").rope.theta, 7);
  EXPECT_EQ(parse("qwen3", std::string(both) + "{}", "").rope.theta, 5);
  EXPECT_TRUE(parse("qwen3", std::string(both) + "{}", "").unknown_keys.empty());
}

TEST(ConfigSpellings, Llama3Rope) {
  const std::string inner = R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4,
      "original_max_position_embeddings":8192)";
  for (const std::string& keys :
       {R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3",)" + inner + "}",
        R"("rope_theta":500000.0,"rope_scaling":{"type":"llama3",)" + inner + "}",
        R"("rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3",)" + inner + "}"}) {
    const ModelConfig c = parse("llama", keys, "");
    EXPECT_EQ(c.rope.type, ops::RopeType::llama3);
    EXPECT_EQ(c.rope.theta, 5e5);
    EXPECT_EQ(c.rope.factor, 8);
    EXPECT_EQ(c.rope.low_freq_factor, 1);
    EXPECT_EQ(c.rope.high_freq_factor, 4);
    EXPECT_EQ(c.rope.original_max_position_embeddings, 8192);
    EXPECT_TRUE(c.unknown_keys.empty());
  }
}

TEST(ConfigSpellings, YarnRope) {
  ModelConfig c = parse("qwen2",
                        R"("max_position_embeddings":131072,"rope_theta":1e6,"rope_scaling":
      {"type":"yarn","factor":4.0,"original_max_position_embeddings":32768})",
                        "");
  EXPECT_EQ(c.rope.type, ops::RopeType::yarn);
  EXPECT_EQ(c.rope.factor, 4);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 32768);
  EXPECT_EQ(c.rope.max_position_embeddings, 131072);
  EXPECT_EQ(c.rope.beta_fast, 32);
  EXPECT_EQ(c.rope.beta_slow, 1);
  EXPECT_EQ(c.rope.attention_factor, 0);
  EXPECT_TRUE(c.rope.truncate);
  c = parse("qwen2",
            R"("max_position_embeddings":4096,"rope_scaling":{"rope_type":"yarn","factor":2,
      "beta_fast":16,"beta_slow":2,"mscale":0.7,"mscale_all_dim":1.1,"attention_factor":1.5,
      "truncate":false})",
            "");
  EXPECT_EQ(c.rope.original_max_position_embeddings, 4096);  // the config's length where not given
  EXPECT_EQ(c.rope.beta_fast, 16);
  EXPECT_EQ(c.rope.beta_slow, 2);
  EXPECT_EQ(c.rope.mscale, 0.7);
  EXPECT_EQ(c.rope.mscale_all_dim, 1.1);
  EXPECT_EQ(c.rope.attention_factor, 1.5);
  EXPECT_FALSE(c.rope.truncate);
  // dict.get's default is for absent keys; an explicit null is false. Neither is an unknown key.
  const ModelConfig nulls = parse("qwen3",
                                  R"("max_position_embeddings":4096,"rope_scaling":{
      "rope_type":"yarn","factor":null,"original_max_position_embeddings":1024,"truncate":null})",
                                  "");
  EXPECT_FALSE(nulls.rope.truncate);
  EXPECT_EQ(nulls.rope.factor, 4);
  EXPECT_TRUE(nulls.unknown_keys.empty());
  // null is the ratio of the lengths, and the length outside wins.
  c = parse("qwen2", R"("max_position_embeddings":4096,"original_max_position_embeddings":512,
      "rope_scaling":{"rope_type":"yarn","factor":null,"beta_fast":0,
      "original_max_position_embeddings":1024})",
            "");
  EXPECT_EQ(c.rope.factor, 8);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 512);
  EXPECT_EQ(c.rope.beta_fast, 32);
}

TEST(ConfigBiases, FollowTheClasses) {
  const char* all = R"("attention_bias":true,"mlp_bias":true)";
  const auto biases = [&](const char* type) {
    const ModelConfig c = parse(type, all, "");
    return std::array<bool, 3>{c.qkv_bias, c.output_bias, c.mlp_bias};
  };
  EXPECT_EQ(biases("llama"), (std::array<bool, 3>{true, true, true}));
  EXPECT_EQ(biases("qwen3"), (std::array<bool, 3>{true, true, false}));
  EXPECT_EQ(biases("qwen3_moe"), (std::array<bool, 3>{true, true, false}));
  EXPECT_EQ(biases("qwen2"), (std::array<bool, 3>{true, false, false}));
  EXPECT_EQ(parse("qwen2", all, "").unknown_keys,
            (std::vector<std::string>{"attention_bias", "mlp_bias"}));
}

TEST(ConfigSparse, FollowsStepAndList) {
  const auto sparse = [](const std::string& keys) {
    std::string out;
    for (bool s : parse("qwen3_moe", R"("num_hidden_layers":6,)" + keys, "").layer_is_sparse)
      out += s ? 'S' : '-';
    return out;
  };
  EXPECT_EQ(sparse(R"("decoder_sparse_step":1)"), "SSSSSS");
  EXPECT_EQ(sparse(R"("decoder_sparse_step":2)"), "-S-S-S");
  EXPECT_EQ(sparse(R"("decoder_sparse_step":3)"), "--S--S");
  EXPECT_EQ(sparse(R"("decoder_sparse_step":7)"), "------");
  EXPECT_EQ(sparse(R"("mlp_only_layers":[0,4])"), "-SSS-S");
  EXPECT_EQ(sparse(R"("mlp_only_layers":[])"), "SSSSSS");
  EXPECT_EQ(sparse(R"("mlp_only_layers":null)"), "SSSSSS");
  EXPECT_EQ(sparse(R"("decoder_sparse_step":2,"mlp_only_layers":[1,2,99])"), "---S-S");
  EXPECT_EQ(sparse(R"("num_experts":0)"), "------");
  EXPECT_EQ(sparse(R"("num_experts":2,"num_experts_per_tok":8,"decoder_sparse_step":9)"), "------");
}

TEST(ConfigEos, IsTheUnionOfBothFilesInsideTheVocabulary) {
  const auto eos = [](const std::string& type, const std::string& keys,
                      const std::string& generation) {
    return parse(type, R"("vocab_size":200,)" + keys, generation).eos_token_ids;
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":7)", ""), Ids({7}));
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":[7,9])", ""), Ids({7, 9}));
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":7)", R"({"eos_token_id":[7,5]})"), Ids({7, 5}));
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":null)", R"({"eos_token_id":11})"), Ids({11}));
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":[])", R"({"other":{}})"), Ids());
  EXPECT_EQ(eos("qwen3", R"("eos_token_id":[-1,200,199])", ""), Ids({199}));
  EXPECT_EQ(eos("llama", R"("eos_token_id":null)", ""), Ids());
  EXPECT_EQ(eos("llama", R"("bos_token_id":1)", R"({"eos_token_id":11})"), Ids({11}));
  EXPECT_EQ(eos("llama", R"("bos_token_id":1)", ""), Ids({2}));
}

TEST(ConfigUnknownKeys, AreReportedAndRoutineOnesAreNot) {
  const ModelConfig c = parse("llama",
                              R"("architectures":["LlamaForCausalLM"],"use_cache":true,
      "initializer_range":0.1,"transformers_version":"4.40.0","bos_token_id":1,"pad_token_id":0,
      "attention_dropout":0.0,"pretraining_tp":1,"_name_or_path":"x","logits_scaling":8.0,
      "num_experts":4,"rope_scaling":{"type":"default","wavelength":3})",
                              "");
  EXPECT_EQ(c.unknown_keys,
            (std::vector<std::string>{"rope_scaling.wavelength", "logits_scaling", "num_experts"}));
  EXPECT_EQ(c.initializer_range, 0.1);
}

TEST(ConfigSlidingWindow, IsFineWhereNoLayerUsesIt) {
  EXPECT_NO_THROW(parse("qwen2", R"("use_sliding_window":false,"sliding_window":4096)", ""));
  EXPECT_NO_THROW(parse("qwen2", R"("sliding_window":4096)", ""));
  EXPECT_NO_THROW(parse("qwen3", R"("use_sliding_window":true,"sliding_window":null)", ""));
  EXPECT_NO_THROW(parse(
      "qwen3", R"("use_sliding_window":true,"num_hidden_layers":28,"max_window_layers":28)", ""));
  EXPECT_NO_THROW(parse("qwen2", R"("use_sliding_window":true,"num_hidden_layers":2,"layer_types":
      ["full_attention","full_attention"],"max_window_layers":0)",
                        ""));
  EXPECT_NO_THROW(parse("llama", R"("sliding_window":null)", ""));
}

TEST(ConfigFile, IsReadFromAFolderOrByName) {
  const TemporaryFolder dir;
  write_bytes(dir / "config.json", R"({"model_type":"qwen3","vocab_size":300})");
  write_bytes(dir / "generation_config.json", R"({"eos_token_id":[3]})");
  EXPECT_EQ(io::read_model_config(dir.path()).vocab_size, 300);
  EXPECT_EQ(io::read_model_config(dir / "config.json").eos_token_ids, std::vector<int64_t>{3});
}

}  // namespace
}  // namespace longhaul::test
