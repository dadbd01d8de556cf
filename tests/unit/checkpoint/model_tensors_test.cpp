// The list of a model's tensors against checkpoints that transformers wrote.

#include "runtime/io/model_tensors.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "runtime/io/checkpoint.h"

namespace longhaul::io {
namespace {

std::vector<std::filesystem::path> golden_folders() {
  std::vector<std::filesystem::path> folders = {LONGHAUL_TEST_DATA "/needle"};
  for (const auto& entry : std::filesystem::directory_iterator(LONGHAUL_TEST_DATA "/golden"))
    if (entry.is_directory()) folders.push_back(entry.path());
  return folders;
}

TEST(ModelTensors, AreExactlyWhatTransformersWrites) {
  ASSERT_GE(golden_folders().size(), 6U);
  for (const auto& folder : golden_folders()) {
    SCOPED_TRACE(folder.string());
    const ModelConfig config = read_model_config(folder);
    EXPECT_TRUE(config.unknown_keys.empty()) << config.unknown_keys.front();
    const auto checkpoint = open_safetensors(folder);
    int64_t bytes = 0;
    for (const TensorSpec& spec : model_tensors(config)) {
      ASSERT_TRUE(checkpoint->has(spec.name)) << spec.name;
      const ConstTensorView view = checkpoint->tensor(spec.name, spec.shape);
      EXPECT_EQ(view.dtype, config.stored_dtype);
      bytes += view.num_bytes();
    }
    EXPECT_TRUE(checkpoint->unused().empty()) << checkpoint->unused().front();
    EXPECT_EQ(bytes, checkpoint->total_bytes());
  }
}

TEST(ModelTensors, NamesAreUnique) {
  const auto config = parse_model_config(
      R"({"model_type":"qwen3_moe","num_experts":5,"num_experts_per_tok":2,"num_hidden_layers":4,
          "decoder_sparse_step":2,"mlp_only_layers":[1],"attention_bias":true})",
      "", "config.json");
  std::set<std::string> names;
  for (const TensorSpec& spec : model_tensors(config)) names.insert(spec.name);
  EXPECT_EQ(names.size(), model_tensors(config).size());
  EXPECT_TRUE(names.contains("model.layers.3.mlp.experts.4.down_proj.weight"));
  EXPECT_TRUE(names.contains("model.layers.1.mlp.gate_proj.weight"));
  EXPECT_TRUE(names.contains("model.layers.0.self_attn.o_proj.bias"));
  EXPECT_FALSE(names.contains("model.layers.1.mlp.gate.weight"));
}

}  // namespace
}  // namespace longhaul::io
