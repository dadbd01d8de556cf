#pragma once
// Which tensors of a checkpoint make up a model's parts, whatever device they end up on. A builder
// turns named tensors into its device's form:
//
//   struct Form { using Vector = ...; using Linear = ...; using Table = ...; using Experts = ...;
//   }; struct Builder : Form {
//     using Form = Form;
//     Table table(name, Shape);                          // the embedding
//     Vector vector(name, size);                         // a norm's weights
//     Linear linear(parts, in_features, bias);           // the parts' rows one below the other
//     Linear tied_head(const Table&);                    // lm_head that is the embedding
//     Experts experts(prefix, const ModelConfig&);       // prefix: "model.layers.3.mlp."
//   };

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/core/progress.h"
#include "runtime/core/tensor.h"
#include "runtime/io/model_config.h"

namespace longhaul::model {

// A module of the checkpoint: NAME.weight [out_features, in_features], NAME.bias [out_features].
struct WeightPart {
  std::string name;
  int64_t out_features;
};

template <class B>
struct LayerOf {
  typename B::Vector input_norm;  // [hidden]
  typename B::Linear qkv;  // hidden -> (num_heads + 2 num_kv_heads) * head_dim: q, k, v in turn
  typename B::Vector q_norm, k_norm;  // [head_dim], undefined without qk_norm
  typename B::Linear output;          // num_heads * head_dim -> hidden
  typename B::Vector post_norm;       // [hidden]
  bool sparse = false;
  // Dense MLP, or router and experts.
  typename B::Linear gate_up;  // hidden -> 2 * intermediate, gate rows first
  typename B::Linear down;     // intermediate -> hidden
  typename B::Linear router;   // hidden -> num_experts
  typename B::Experts experts;
};

template <class B>
struct ModelOf {
  typename B::Table embedding;  // [vocab, hidden]
  std::vector<LayerOf<B>> layers;
  typename B::Vector final_norm;  // [hidden]
  typename B::Linear lm_head;     // hidden -> vocab
  uint64_t content = 0;           // hash of the weights, for the agreement of ranks
};

// gate_proj and up_proj as one, and down_proj, below `prefix`.
template <class B>
std::pair<typename B::Linear, typename B::Linear> load_mlp(B& build, const io::ModelConfig& c,
                                                           const std::string& prefix, int64_t size,
                                                           bool bias) {
  auto gate_up =
      build.linear({{prefix + "gate_proj", size}, {prefix + "up_proj", size}}, c.hidden_size, bias);
  auto down = build.linear({{prefix + "down_proj", c.hidden_size}}, size, bias);
  return {std::move(gate_up), std::move(down)};
}

template <class B>
LayerOf<typename B::Form> load_layer(B& build, const io::ModelConfig& c, int i) {
  const std::string prefix = fmt::format("model.layers.{}.", i);
  const std::string attn = prefix + "self_attn.";
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  LayerOf<typename B::Form> w;
  w.input_norm = build.vector(prefix + "input_layernorm.weight", c.hidden_size);
  w.qkv = build.linear({{attn + "q_proj", q}, {attn + "k_proj", kv}, {attn + "v_proj", kv}},
                       c.hidden_size, c.qkv_bias);
  if (c.qk_norm) {
    w.q_norm = build.vector(attn + "q_norm.weight", c.head_dim);
    w.k_norm = build.vector(attn + "k_norm.weight", c.head_dim);
  }
  w.output = build.linear({{attn + "o_proj", c.hidden_size}}, q, c.output_bias);
  w.post_norm = build.vector(prefix + "post_attention_layernorm.weight", c.hidden_size);
  w.sparse = c.layer_is_sparse[static_cast<size_t>(i)];
  if (w.sparse) {
    w.router = build.linear({{prefix + "mlp.gate", c.moe.num_experts}}, c.hidden_size, false);
    w.experts = build.experts(prefix + "mlp.", c);
  } else {
    std::tie(w.gate_up, w.down) =
        load_mlp(build, c, prefix + "mlp.", c.intermediate_size, c.mlp_bias);
  }
  return w;
}

template <class B>
ModelOf<typename B::Form> load_model(B& build, const io::ModelConfig& c, Progress& progress) {
  ModelOf<typename B::Form> w;
  w.embedding = build.table("model.embed_tokens.weight", Shape{c.vocab_size, c.hidden_size});
  for (int i = 0; i < c.num_layers; ++i) {
    progress.enter("load layer", i);
    w.layers.push_back(load_layer(build, c, i));
  }
  w.final_norm = build.vector("model.norm.weight", c.hidden_size);
  w.lm_head = c.tie_word_embeddings
                  ? build.tied_head(w.embedding)
                  : build.linear({{"lm_head", c.vocab_size}}, c.hidden_size, false);
  progress.tick();
  return w;
}

}  // namespace longhaul::model
