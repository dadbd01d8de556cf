#include "runtime/model/weights.h"

#include <xxhash.h>

#include <cstring>
#include <tuple>
#include <utility>

#include "runtime/ops/elementwise.h"

namespace longhaul::model {
namespace {

class Loader {
 public:
  Loader(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
         Progress& progress)
      : checkpoint_(checkpoint), config_(config), compute_(compute), progress_(progress) {}

  ModelWeights load() {
    ModelWeights w;
    const Shape table{config_.vocab_size, config_.hidden_size};
    w.embedding = read("model.embed_tokens.weight", table);
    for (int i = 0; i < config_.num_layers; ++i) w.layers.push_back(load_layer(i));
    w.final_norm = vector("model.norm.weight", config_.hidden_size);
    w.lm_head = config_.tie_word_embeddings
                    ? ops::Linear(w.embedding, ConstTensorView{}, compute_)
                    : linear({{"lm_head", config_.vocab_size}}, config_.hidden_size, false);
    progress_.tick();
    w.content = content_;
    return w;
  }

 private:
  // A tensor of the checkpoint; all its bytes go into the hash that ranks compare.
  ConstTensorView read(const std::string& name, const Shape& shape) {
    const ConstTensorView v = checkpoint_.tensor(name, shape);
    content_ = XXH3_64bits_withSeed(v.data, static_cast<size_t>(v.num_bytes()), content_);
    progress_.tick();
    return v;
  }

  struct Part {
    std::string name;  // module name, without ".weight"
    int64_t out_features;
  };

  // A small tensor, converted to the compute dtype.
  Tensor vector(const std::string& name, int64_t size) {
    const ConstTensorView stored = read(name, Shape{size});
    Tensor out(compute_, {size}, MemoryUse::weights);
    ops::convert(stored, out);
    checkpoint_.release(name);
    return out;
  }

  // One matrix of the named modules' rows, one below the other, in a dtype that holds them all.
  Tensor stack(const std::vector<Part>& parts, const char* suffix, int64_t columns) {
    const auto shape = [&](int64_t rows) {
      return columns > 0 ? Shape{rows, columns} : Shape{rows};
    };
    std::vector<ConstTensorView> views;
    int64_t rows = 0;
    for (const Part& p : parts) {
      views.push_back(read(p.name + suffix, shape(p.out_features)));
      rows += p.out_features;
    }
    DType dtype = views.front().dtype;
    for (const ConstTensorView& v : views)
      if (v.dtype != dtype)
        dtype = dtype == DType::f64 || v.dtype == DType::f64 ? DType::f64 : DType::f32;
    Tensor all(dtype, shape(rows), MemoryUse::weights);
    int64_t row = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const TensorView to = all.view().row_range(row, parts[i].out_features);
      if (views[i].dtype == dtype)
        std::memcpy(to.data, views[i].data, static_cast<size_t>(to.num_bytes()));
      else
        ops::convert(views[i], to);
      row += parts[i].out_features;
      checkpoint_.release(parts[i].name + suffix);
    }
    return all;
  }

  ops::Linear linear(const std::vector<Part>& parts, int64_t in_features, bool bias) {
    progress_.tick();
    Tensor b;
    if (bias) b = stack(parts, ".bias", 0);
    if (parts.size() == 1) {
      const std::string name = parts.front().name + ".weight";
      const ConstTensorView weight = read(name, Shape{parts.front().out_features, in_features});
      ops::Linear l(weight, b.view(), compute_);
      checkpoint_.release(name);
      return l;
    }
    const Tensor weight = stack(parts, ".weight", in_features);
    return ops::Linear(weight.view(), std::as_const(b).view(), compute_);
  }

  LayerWeights load_layer(int i) {
    progress_.enter("load layer", i);
    const std::string prefix = fmt::format("model.layers.{}.", i);
    const std::string attn = prefix + "self_attn.";
    const int64_t q = config_.num_heads * config_.head_dim;
    const int64_t kv = config_.num_kv_heads * config_.head_dim;
    LayerWeights w;
    w.input_norm = vector(prefix + "input_layernorm.weight", config_.hidden_size);
    w.qkv = linear({{attn + "q_proj", q}, {attn + "k_proj", kv}, {attn + "v_proj", kv}},
                   config_.hidden_size, config_.qkv_bias);
    if (config_.qk_norm) {
      w.q_norm = vector(attn + "q_norm.weight", config_.head_dim);
      w.k_norm = vector(attn + "k_norm.weight", config_.head_dim);
    }
    w.output = linear({{attn + "o_proj", config_.hidden_size}}, q, config_.output_bias);
    w.post_norm = vector(prefix + "post_attention_layernorm.weight", config_.hidden_size);
    if (config_.layer_is_sparse[static_cast<size_t>(i)])
      load_experts(prefix + "mlp.", w);
    else
      std::tie(w.gate_up, w.down) =
          mlp(prefix + "mlp.", config_.intermediate_size, config_.mlp_bias);
    return w;
  }

  std::pair<ops::Linear, ops::Linear> mlp(const std::string& prefix, int64_t size, bool bias) {
    ops::Linear gate_up = linear({{prefix + "gate_proj", size}, {prefix + "up_proj", size}},
                                 config_.hidden_size, bias);
    ops::Linear down = linear({{prefix + "down_proj", config_.hidden_size}}, size, bias);
    return {std::move(gate_up), std::move(down)};
  }

  void load_experts(const std::string& prefix, LayerWeights& w) {
    w.router = linear({{prefix + "gate", config_.moe.num_experts}}, config_.hidden_size, false);
    std::vector<moe::Expert> experts;
    for (int e = 0; e < config_.moe.num_experts; ++e) {
      auto [gate_up, down] =
          mlp(fmt::format("{}experts.{}.", prefix, e), config_.moe.intermediate_size, false);
      experts.push_back({std::move(gate_up), std::move(down)});
    }
    w.experts = std::make_unique<moe::Experts>(std::move(experts), compute_);
  }

  io::Checkpoint& checkpoint_;
  const io::ModelConfig& config_;
  DType compute_;
  Progress& progress_;
  uint64_t content_ = 0;
};

}  // namespace

ModelWeights load_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
                          Progress& progress) {
  return Loader(checkpoint, config, compute, progress).load();
}

}  // namespace longhaul::model
