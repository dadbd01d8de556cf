// Seeded random weights: the same everywhere, of the right distribution, each its own.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "runtime/io/checkpoint.h"
#include "runtime/io/model_tensors.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

io::ModelConfig small_config(const std::string& dtype) {
  return io::parse_model_config(
      R"({"model_type":"qwen3_moe","vocab_size":1000,"hidden_size":64,"num_hidden_layers":2,
          "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"num_experts":3,
          "num_experts_per_tok":2,"moe_intermediate_size":32,"attention_bias":true,
          "initializer_range":0.05,"dtype":")" +
          dtype + "\"}",
      "", "config.json");
}

std::vector<float> values(io::Checkpoint& weights, const std::string& name, const Shape& shape) {
  const ConstTensorView view = weights.tensor(name, shape);
  std::vector<float> out(static_cast<size_t>(view.num_elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    switch (view.dtype) {
      case DType::bf16:
        out[i] = static_cast<float>(view.as<bf16>()[i]);
        break;
      case DType::f16:
        out[i] = static_cast<float>(view.as<f16>()[i]);
        break;
      case DType::f32:
        out[i] = view.as<float>()[i];
        break;
      default:
        out[i] = static_cast<float>(view.as<double>()[i]);
    }
  }
  weights.release(name);
  return out;
}

// Bits that any machine must give; computed once with independent integer arithmetic in Python.
TEST(RandomWeights, AreTheSameBitsEverywhere) {
  const auto weights = io::make_random_checkpoint(small_config("float32"), 42);
  const ConstTensorView view = weights->tensor("lm_head.weight", {1000, 64});
  std::vector<uint32_t> bits(4);
  std::memcpy(bits.data(), view.data, 16);
  EXPECT_EQ(bits, (std::vector<uint32_t>{0xbd4c85d2U, 0xbc5485cdU, 0xbcf90955U, 0x3c211a36U}));
}

TEST(RandomWeights, DependOnSeedNameAndIndexOnly) {
  const io::ModelConfig config = small_config("float32");
  const auto a = io::make_random_checkpoint(config, 1), b = io::make_random_checkpoint(config, 1),
             c = io::make_random_checkpoint(config, 2);
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->fingerprint(), c->fingerprint());
  EXPECT_NE(a->fingerprint(),
            io::make_random_checkpoint(small_config("bfloat16"), 1)->fingerprint());
  // In another order, after a release, and beside other tensors.
  const auto tensors = io::model_tensors(config);
  std::map<std::string, std::vector<float>> backwards;
  for (auto it = tensors.rbegin(); it != tensors.rend(); ++it)
    backwards[it->name] = values(*b, it->name, it->shape);
  std::map<float, std::string> firsts;
  for (const io::TensorSpec& spec : tensors) {
    const std::vector<float> now = values(*a, spec.name, spec.shape);
    EXPECT_EQ(now, backwards[spec.name]) << spec.name;
    EXPECT_EQ(now, values(*a, spec.name, spec.shape)) << spec.name;
    EXPECT_NE(now, values(*c, spec.name, spec.shape)) << spec.name;
    // Streams of different tensors must not be shifted copies: their first values are in no other.
    EXPECT_TRUE(firsts.emplace(now[0], spec.name).second) << spec.name << " " << firsts[now[0]];
  }
  EXPECT_TRUE(a->unused().empty());
}

// 64,000 values: the mean's deviation is 1/253 of one, the variance's sqrt(1.7/64000) = 0.5 %;
// five of each are allowed.
TEST(RandomWeights, AreNearlyNormal) {
  const auto weights = io::make_random_checkpoint(small_config("float32"), 3);
  const std::vector<float> v = values(*weights, "model.embed_tokens.weight", {1000, 64});
  double sum = 0, squares = 0, neighbours = 0;
  int beyond_two = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const double z = v[i] / 0.05;
    sum += z;
    squares += z * z;
    if (i > 0) neighbours += z * v[i - 1] / 0.05;
    if (std::abs(z) > 2) ++beyond_two;
  }
  const auto n = static_cast<double>(v.size());
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 0.026);
  EXPECT_NEAR(neighbours / n, 0, 5 / std::sqrt(n));
  // Irwin-Hall of four: P(|z| > 2) = 2 (2 - 2/sqrt(3))^4 / 24 = 0.0425, deviation 0.0008.
  EXPECT_NEAR(beyond_two / n, 0.0425, 0.004);
}

TEST(RandomWeights, NormsAreAroundOneAndBiasesAroundZero) {
  const auto weights = io::make_random_checkpoint(small_config("bfloat16"), 3);
  for (float x : values(*weights, "model.layers.1.input_layernorm.weight", {64})) {
    EXPECT_GT(x, 0.8F);
    EXPECT_LT(x, 1.2F);
  }
  for (float x : values(*weights, "model.layers.1.self_attn.q_proj.bias", {64}))
    EXPECT_LT(std::abs(x), 0.2F);
}

// Rounded to nearest: values are below 0.05 * 3.47 < 2^-2, where bfloat16 with its 7 stored bits is
// spaced by 2^-10 and half precision by 2^-13; half of that.
TEST(RandomWeights, EveryDtypeRoundsTheSameValues) {
  const std::string name = "lm_head.weight";
  const auto exact =
      values(*io::make_random_checkpoint(small_config("float32"), 9), name, {1000, 64});
  const std::map<std::string, double> half_ulp = {
      {"bfloat16", 0x1p-11}, {"float16", 0x1p-14}, {"float64", 0}};
  for (const auto& [dtype, bound] : half_ulp) {
    const auto weights = io::make_random_checkpoint(small_config(dtype), 9);
    const std::vector<float> rounded = values(*weights, name, {1000, 64});
    for (size_t i = 0; i < exact.size(); ++i)
      ASSERT_LE(std::abs(static_cast<double>(exact[i]) - rounded[i]), bound) << dtype << " " << i;
  }
}

TEST(RandomWeights, RefuseWhatTheModelLacks) {
  const auto weights = io::make_random_checkpoint(small_config("float32"), 9);
  EXPECT_FALSE(weights->has("model.layers.2.input_layernorm.weight"));
  expect_refused([&] { (void)weights->tensor("nope", {1}); }, ExitCode::mismatch, {"'nope'", "[1]"},
                 "missing");
  expect_refused(
      [&] {
        (void)weights->tensor("lm_head.weight", {64, 1000});
      },
      ExitCode::mismatch, {"[1000, 64]", "[64, 1000]"}, "misshapen");
}

// Tensors live only between tensor() and release().
TEST(RandomWeights, FreeMemoryOnRelease) {
  const auto weights = io::make_random_checkpoint(small_config("float32"), 9);
  const int64_t before = memory_figures(MemoryUse::weights).current_bytes;
  (void)weights->tensor("lm_head.weight", {1000, 64});
  EXPECT_GE(memory_figures(MemoryUse::weights).current_bytes, before + 256'000);
  weights->release("lm_head.weight");
  EXPECT_EQ(memory_figures(MemoryUse::weights).current_bytes, before);
}

}  // namespace
}  // namespace longhaul::test
