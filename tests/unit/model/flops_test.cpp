// Arithmetic of a step against sums over the model's tensors.

#include "runtime/model/flops.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/io/model_tensors.h"

namespace longhaul::model {
namespace {

// Multiply-adds of one token: every element of every matrix it passes through, experts only top_k.
double weights_passed(const io::ModelConfig& c) {
  double sum = 0;
  for (const io::TensorSpec& t : io::model_tensors(c)) {
    const auto n = static_cast<double>(t.shape.num_elements());
    if (t.name.find("proj.weight") == std::string::npos &&
        t.name.find("mlp.gate.weight") == std::string::npos)
      continue;
    if (t.name.find(".experts.") != std::string::npos)
      sum += n * c.moe.num_experts_per_tok / c.moe.num_experts;
    else
      sum += n;
  }
  return sum;
}

TEST(Flops, AgreesWithTheTensors) {
  for (const char* model :
       {"golden/llama", "golden/qwen3_moe", "golden/qwen3_moe_mixed", "models/qwen3_0.6b"}) {
    const io::ModelConfig c =
        io::read_model_config(std::filesystem::path(LONGHAUL_TEST_DATA) / model);
    const Flops f = step_flops(c, 1000, 0, 0);
    EXPECT_DOUBLE_EQ(f.linear, 2 * 1000 * weights_passed(c)) << model;
    EXPECT_EQ(f.attention, 0);
    EXPECT_DOUBLE_EQ(step_flops(c, 0, 0, 3).linear,
                     2.0 * 3 * static_cast<double>(c.hidden_size * c.vocab_size));
    // 4 H D a query-key pair and layer.
    EXPECT_DOUBLE_EQ(step_flops(c, 0, 7, 0).attention,
                     28.0 * static_cast<double>(c.num_heads * c.head_dim * c.num_layers));
  }
}

}  // namespace
}  // namespace longhaul::model
