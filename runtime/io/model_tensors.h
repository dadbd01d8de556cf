#pragma once
// THE list of a model's tensors: names and shapes as Hugging Face checkpoints have them. What
// reads, makes or writes weights asks here.

#include <string>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/io/model_config.h"

namespace longhaul::io {

struct TensorSpec {
  std::string name;
  Shape shape;  // linear layers are [out, in], as torch stores them
};

// In the order of the forward pass. H hidden, V vocabulary, D head dim, Q = heads * D, K = kv heads
// * D, F intermediate, E experts, I expert intermediate:
//   model.embed_tokens.weight [V, H]
//   model.layers.N.input_layernorm.weight [H]
//   model.layers.N.self_attn.{q,k,v}_proj.weight [Q|K, H], .bias [Q|K] with qkv_bias
//   model.layers.N.self_attn.{q,k}_norm.weight [D] with qk_norm
//   model.layers.N.self_attn.o_proj.weight [H, Q], .bias [H] with output_bias
//   model.layers.N.post_attention_layernorm.weight [H]
//   dense:  model.layers.N.mlp.{gate,up}_proj.weight [F, H], down_proj.weight [H, F], biases with
//           mlp_bias
//   sparse: model.layers.N.mlp.gate.weight [E, H],
//           model.layers.N.mlp.experts.e.{gate,up}_proj.weight [I, H], down_proj.weight [H, I]
//   model.norm.weight [H]
//   lm_head.weight [V, H] unless tied: a tied model uses the embedding, and an lm_head.weight that
//   a file holds all the same is unused, as in transformers
std::vector<TensorSpec> model_tensors(const ModelConfig& config);

}  // namespace longhaul::io
