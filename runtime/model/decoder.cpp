#include "runtime/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "moe/router.h"
#include "runtime/ops/elementwise.h"

namespace longhaul::model {
namespace {

// Rows a piece of an MLP works on at once: bounds the memory of its wide intermediates.
constexpr int64_t kMlpRows = 4096;

}  // namespace

struct Decoder::Step {
  LocalTokens tokens;
  attention::ContextParallelAttention& attention;
  io::ActivationSink* sink;
  StageTimes& times;
  ops::Rope::Table rope;
};

Decoder::Decoder(const io::ModelConfig& config, ModelWeights weights, DType compute,
                 ThreadPool& pool, Progress& progress)
    : config_(config),
      weights_(std::move(weights)),
      compute_(compute),
      pool_(pool),
      progress_(progress),
      rope_(config.rope, config.head_dim) {}

void Decoder::put(Step& step, int layer, const char* name, ConstTensorView rows, const char* dims) {
  if (step.sink == nullptr) return;
  const std::string path = layer < 0 ? name : fmt::format("layers.{:02}.{}", layer, name);
  if (step.sink->wants(path)) step.sink->write(path, rows, dims);
}

Tensor Decoder::forward(const LocalTokens& tokens, attention::ContextParallelAttention& attention,
                        io::ActivationSink* sink, StageTimes& times) {
  Step step{tokens, attention, sink, times, {}};
  const auto rows = static_cast<int64_t>(tokens.ids.size());
  Tensor hidden(compute_, {rows, config_.hidden_size});
  {
    StageTimer timer(times.embed);
    progress_.enter("embed");
    ops::embed(weights_.embedding, tokens.ids, hidden, pool_);
    put(step, -1, "embedding", hidden, "t d");
    step.rope = rope_.table(tokens.positions, compute_, pool_);
  }
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    attention_block(layer, step, hidden);
    mlp_block(layer, step, hidden);
    put(step, layer, "hidden", hidden, "t d");
  }
  return hidden;
}

// hidden += output(attention(qkv(norm(hidden))))
void Decoder::attention_block(int layer, Step& step, TensorView hidden) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t rows = hidden.rows();
  const int64_t dim = config_.head_dim;
  const int64_t num_heads = config_.num_heads, num_kv_heads = config_.num_kv_heads;
  Tensor q(compute_, {rows, num_heads, dim});
  Tensor k(compute_, {rows, num_kv_heads, dim});
  Tensor v(compute_, {rows, num_kv_heads, dim});
  {
    StageTimer timer(step.times.qkv);
    progress_.enter("qkv", layer);
    Tensor x(compute_, {rows, config_.hidden_size});
    ops::rms_norm(hidden, w.input_norm, config_.rms_norm_eps, x, pool_);
    put(step, layer, "input_norm", x, "t d");
    Tensor qkv(compute_, {rows, w.qkv.out_features()});
    w.qkv.apply(x, qkv, pool_);
    const int64_t q_size = num_heads * dim, kv_size = num_kv_heads * dim;
    ops::copy_columns(qkv, 0, q_size, q.view().reshaped({rows, q_size}), pool_);
    ops::copy_columns(qkv, q_size, kv_size, k.view().reshaped({rows, kv_size}), pool_);
    ops::copy_columns(qkv, q_size + kv_size, kv_size, v.view().reshaped({rows, kv_size}), pool_);
    if (w.q_norm.defined()) {
      ops::rms_norm(q, w.q_norm, config_.rms_norm_eps, q, pool_);
      ops::rms_norm(k, w.k_norm, config_.rms_norm_eps, k, pool_);
    }
    ops::Rope::apply(step.rope, q, pool_);
    ops::Rope::apply(step.rope, k, pool_);
  }
  put(step, layer, "q", q, "t h d");
  put(step, layer, "k", k, "t h d");
  put(step, layer, "v", v, "t h d");

  Tensor out(compute_, {rows, num_heads, dim});
  Tensor lse;
  const bool want_lse =
      step.sink != nullptr && step.sink->wants(fmt::format("layers.{:02}.attention_lse", layer));
  if (want_lse) lse = Tensor(accumulator_dtype(compute_), {rows, num_heads});
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  step.attention.run(layer, q, k, v, scale, out, lse);
  put(step, layer, "attention", out, "t h d");
  if (want_lse) put(step, layer, "attention_lse", lse, "t h");

  StageTimer timer(step.times.qkv);
  progress_.enter("output projection", layer);
  Tensor y(compute_, {rows, config_.hidden_size});
  w.output.apply(std::as_const(out).view().reshaped({rows, num_heads * dim}), y, pool_);
  ops::add(hidden, y, pool_);
  put(step, layer, "post_attention", hidden, "t d");
}

// hidden += mlp(norm(hidden))
void Decoder::mlp_block(int layer, Step& step, TensorView hidden) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  StageTimer timer(step.times.mlp);
  progress_.enter(w.experts ? "experts" : "mlp", layer);
  const int64_t rows = hidden.rows();
  Tensor x(compute_, {rows, config_.hidden_size});
  ops::rms_norm(hidden, w.post_norm, config_.rms_norm_eps, x, pool_);
  put(step, layer, "post_norm", x, "t d");
  Tensor y(compute_, {rows, config_.hidden_size});
  if (w.experts)
    expert_mlp(layer, step, x, y);
  else
    dense_mlp(w, x, y);
  put(step, layer, "mlp", y, "t d");
  ops::add(hidden, y, pool_);
}

void Decoder::dense_mlp(const LayerWeights& w, ConstTensorView x, TensorView out) {
  const int64_t most = std::min(x.rows(), kMlpRows);
  Tensor gate_up(compute_, {most, w.gate_up.out_features()});
  Tensor act(compute_, {most, w.down.in_features()});
  for (int64_t begin = 0; begin < x.rows(); begin += most) {
    const int64_t n = std::min(most, x.rows() - begin);
    w.gate_up.apply(x.row_range(begin, n), gate_up.view().row_range(0, n), pool_);
    ops::swiglu(gate_up.view().row_range(0, n), act.view().row_range(0, n), pool_);
    w.down.apply(act.view().row_range(0, n), out.row_range(begin, n), pool_);
  }
}

void Decoder::expert_mlp(int layer, Step& step, ConstTensorView x, TensorView out) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t rows = x.rows();
  const DType acc = accumulator_dtype(compute_);
  const moe::RouterConfig router{config_.moe.num_experts, config_.moe.num_experts_per_tok,
                                 config_.moe.norm_topk_prob};
  Tensor logits(acc, {rows, router.num_experts});
  Tensor ids(DType::i32, {rows, router.top_k});
  Tensor weights(acc, {rows, router.top_k});
  w.router.apply(x, logits, pool_);
  moe::route(logits, router, ids, weights, pool_);
  put(step, layer, "router_logits", logits, "t e");
  put(step, layer, "topk_ids", ids, "t k");
  put(step, layer, "topk_weights", weights, "t k");
  for (int64_t begin = 0; begin < rows; begin += kMlpRows) {
    const int64_t n = std::min(kMlpRows, rows - begin);
    w.experts->apply(x.row_range(begin, n), std::as_const(ids).view().row_range(begin, n),
                     std::as_const(weights).view().row_range(begin, n), out.row_range(begin, n),
                     pool_);
  }
}

Tensor Decoder::logits(ConstTensorView hidden, io::ActivationSink* sink, StageTimes& times) {
  StageTimer timer(times.logits);
  progress_.enter("logits");
  const int64_t rows = hidden.rows();
  Tensor x(compute_, {rows, config_.hidden_size});
  ops::rms_norm(hidden, weights_.final_norm, config_.rms_norm_eps, x, pool_);
  if (sink != nullptr && sink->wants("final_norm")) sink->write("final_norm", x, "t d");
  Tensor out(accumulator_dtype(compute_), {rows, config_.vocab_size});
  weights_.lm_head.apply(x, out, pool_);
  return out;
}

}  // namespace longhaul::model
