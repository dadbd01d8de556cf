#include "runtime/model/cuda/cuda_decoder.h"

#include <algorithm>
#include <cmath>

#include "runtime/core/cuda/nvtx.h"
#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/rope.h"

namespace longhaul::model {
namespace {

// Rows that an MLP works on at once: bounds the memory of its wide intermediates, and is enough to
// fill a GPU.
constexpr int64_t kMlpRows = 32768;
// Rows of logits formed at once where a dump wants all of them.
constexpr int64_t kLogitRows = 1024;

std::string path_of(int layer, const char* name) {
  return layer < 0 ? name : fmt::format("layers.{:02}.{}", layer, name);
}

}  // namespace

CudaDecoder::CudaDecoder(const io::ModelConfig& config, CudaModelWeights weights, DType compute,
                         bool deterministic, cudaStream_t stream, Progress& progress)
    : config_(config),
      weights_(std::move(weights)),
      compute_(compute),
      stream_(stream),
      progress_(progress) {
  plain_.deterministic = residual_.deterministic = deterministic;
  residual_.accumulate = true;
  const ops::Rope rope(config.rope, config.head_dim);
  const std::vector<double>& f = rope.inverse_frequencies();
  inverse_frequencies_ = cuda::DeviceTensor(DType::f64, {static_cast<int64_t>(f.size())},
                                            "RoPE frequencies", MemoryUse::weights);
  LH_CUDA(cudaMemcpy(inverse_frequencies_.view().data, f.data(), f.size() * sizeof(double),
                     cudaMemcpyHostToDevice));
  rope_scaling_ = rope.attention_scaling();
}

attention::cuda::Shape CudaDecoder::attention_shape() const {
  attention::cuda::Shape shape;
  shape.dtype = compute_;
  shape.head_dim = shape.head_dim_v = static_cast<int>(config_.head_dim);
  shape.num_heads = static_cast<int>(config_.num_heads);
  shape.num_kv_heads = static_cast<int>(config_.num_kv_heads);
  return shape;
}

void CudaDecoder::prepare(int64_t rows) {
  bool dense = false, sparse = false;
  const int64_t piece = std::min(rows, kMlpRows);
  ops::cuda::LinearOptions kv = plain_, q = plain_;
  q.num_features = kv.first_feature = config_.num_heads * config_.head_dim;
  for (const CudaLayerWeights& w : weights_.layers) {
    if (!dense && !sparse) {
      for (const auto& part : {plain_, kv, q})
        w.qkv.product->prepare(rows, compute_, stream_, part);
      w.output.product->prepare(rows, compute_, stream_, residual_);
    }
    if (w.sparse && !sparse) w.router.product->prepare(rows, DType::f32, stream_, plain_);
    if (!w.sparse && !dense) {
      w.gate_up.product->prepare(piece, compute_, stream_, plain_);
      w.down.product->prepare(piece, compute_, stream_, residual_);
    }
    (w.sparse ? sparse : dense) = true;
  }
}

void CudaDecoder::take_scratch(cuda::Arena& arena, int64_t rows, int64_t answers, bool all_logits) {
  const io::ModelConfig& c = config_;
  const int64_t d = c.head_dim;
  const auto take = [&](Shape shape) { return arena.take(compute_, shape); };
  rows_ = rows;
  cos_ = arena.take(DType::f32, {rows, d / 2});
  sin_ = arena.take(DType::f32, {rows, d / 2});
  hidden_ = take({rows, c.hidden_size});
  x_ = take({rows, c.hidden_size});
  answer_ids_ = arena.take(DType::i32, {std::max<int64_t>(answers, 1)});

  // Attention's and the MLP's pieces are never in use together.
  const int64_t shared = arena.used();
  qkv_ = take({rows, (c.num_heads + 2 * c.num_kv_heads) * d});
  q_ = take({rows, c.num_heads, d});
  out_ = take({rows, c.num_heads, d});
  lse_ = arena.take(DType::f32, {rows, c.num_heads});
  k_ = take({rows, c.num_kv_heads, d});
  v_ = take({rows, c.num_kv_heads, d});
  int64_t most = arena.used();

  arena.rewind(shared);
  y_ = take({rows, c.hidden_size});
  const int64_t piece = std::min(rows, kMlpRows);
  bool any_sparse = false, any_dense = false;
  for (const CudaLayerWeights& w : weights_.layers) (w.sparse ? any_sparse : any_dense) = true;
  if (any_dense) {
    gate_up_ = take({piece, 2 * c.intermediate_size});
    act_ = take({piece, c.intermediate_size});
  }
  if (any_sparse) {
    router_logits_ = arena.take(DType::f32, {rows, int64_t{c.moe.num_experts}});
    topk_ids_ = arena.take(DType::i32, {rows, int64_t{c.moe.num_experts_per_tok}});
    topk_weights_ = arena.take(DType::f32, {rows, int64_t{c.moe.num_experts_per_tok}});
    for (const CudaLayerWeights& w : weights_.layers)
      if (w.sparse) {
        expert_scratch_ = arena.take_bytes(w.experts.product->scratch_bytes(piece));
        break;
      }
  }
  most = std::max(most, arena.used());

  arena.rewind(shared);
  last_ = take({std::max<int64_t>(answers, 1), c.hidden_size});
  last_norm_ = take({std::max<int64_t>(answers, 1), c.hidden_size});
  const int64_t logit_rows = std::max(answers, all_logits ? std::min(rows, kLogitRows) : 0);
  logits_ = arena.take(DType::f32, {std::max<int64_t>(logit_rows, 1), c.vocab_size});
  most = std::max(most, arena.used());
  arena.rewind(most);
}

bool CudaDecoder::wanted(Step& step, int layer, const char* name) const {
  return step.sink != nullptr && step.sink->wants(path_of(layer, name));
}

void CudaDecoder::put(Step& step, int layer, const char* name, ConstTensorView rows,
                      const char* dims) {
  if (wanted(step, layer, name)) step.sink->write(path_of(layer, name), rows, dims);
}

void CudaDecoder::enqueue(Step& step) {
  const LocalTokens& tokens = step.in.tokens;
  LH_CHECK(static_cast<int64_t>(tokens.ids.size()) == rows_, "{} rows of {}", tokens.ids.size(),
           rows_);
  step.clock.mark("embed", -1, &StageTimes::embed);
  progress_.enter("embed");
  tables_.restart();
  const size_t ids = tables_.add(tokens.ids), positions = tables_.add(tokens.positions);
  const size_t answers = tables_.add(step.in.answer_rows);
  tables_.upload(stream_);
  ids_ = {tables_.at<void>(ids), DType::i32, {rows_}};
  positions_ = {tables_.at<void>(positions), DType::i64, {rows_}};
  answer_rows_ = {
      tables_.at<void>(answers), DType::i64, {static_cast<int64_t>(step.in.answer_rows.size())}};
  ops::cuda::embed(weights_.embedding.view(), ids_, hidden_, stream_);
  put(step, -1, "embedding", hidden_, "t d");
  ops::cuda::rope_table(positions_, inverse_frequencies_.view(), rope_scaling_, cos_, sin_,
                        stream_);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    attention_block(layer, step);
    mlp_block(layer, step);
    put(step, layer, "hidden", hidden_, "t d");
    step.layer_enqueued(layer);
  }
  step.clock.mark("logits", -1, &StageTimes::logits);
  choose(step);
}

// hidden += output(attention(qkv(norm(hidden)))). With several ranks K and V go first, and travel
// while Q is formed.
void CudaDecoder::attention_block(int layer, Step& step) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const io::ModelConfig& c = config_;
  const int64_t q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  attention::cuda::DeviceAttention& attention = step.attention;
  progress_.enter("qkv", layer);
  step.clock.mark("qkv", layer, &StageTimes::qkv);
  cuda::NvtxRange range("qkv", layer);
  ops::cuda::rms_norm(hidden_, w.input_norm.view(), c.rms_norm_eps, x_, stream_);
  put(step, layer, "input_norm", x_, "t d");

  ops::cuda::QkvArgs args;
  args.head_dim = args.head_dim_v = c.head_dim;
  args.q_norm = w.q_norm.view();
  args.k_norm = w.k_norm.view();
  args.norm_eps = c.rms_norm_eps;
  args.cos = cos_;
  args.sin = sin_;
  const auto targets = attention.targets(layer);
  args.kv_row_stride = 2 * kv_size;
  const bool plain_kv = wanted(step, layer, "k") || wanted(step, layer, "v");
  const auto finish = [&](TensorView product, bool q, bool kv) {
    args.qkv = product;
    args.num_heads = q ? c.num_heads : 0;
    args.num_kv_heads = kv ? c.num_kv_heads : 0;
    args.q_column = 0;
    args.k_column = q ? q_size : 0;
    args.v_column = args.k_column + kv_size;
    args.q = q ? q_ : TensorView{};
    args.k_out = kv && plain_kv ? k_ : TensorView{};
    args.v_out = kv && plain_kv ? v_ : TensorView{};
    // K and V may have more places than one call takes: generated tokens of many sequences.
    const size_t places = kv ? targets.size() : 0;
    for (size_t at = 0; at == 0 || at < places; at += args.destinations.size()) {
      const size_t count = std::min(places - at, args.destinations.size());
      args.num_destinations = static_cast<int>(count);
      std::copy_n(targets.begin() + static_cast<std::ptrdiff_t>(at), count,
                  args.destinations.begin());
      if (at > 0) args.num_heads = 0;
      ops::cuda::finish_qkv(args, stream_);
    }
  };
  if (attention.exchanges()) {
    const TensorView kv = {qkv_.data, qkv_.dtype, {rows_, 2 * kv_size}};
    ops::cuda::LinearOptions part = plain_;
    part.first_feature = q_size;
    w.qkv.product->apply(x_, kv, stream_, part);
    finish(kv, false, true);
    progress_.enter("allgather kv", layer);
    step.clock.begin_span("allgather kv", layer);
    attention.exchange(layer);
    step.clock.end_span(attention.sending_stream());
    const TensorView q = {qkv_.data, qkv_.dtype, {rows_, q_size}};
    part.first_feature = 0;
    part.num_features = q_size;
    w.qkv.product->apply(x_, q, stream_, part);
    finish(q, true, false);
    step.clock.mark("allgather kv", layer, &StageTimes::exchange_exposed);
    attention.await(layer);
  } else {
    w.qkv.product->apply(x_, qkv_, stream_, plain_);
    finish(qkv_, true, true);
  }
  put(step, layer, "q", q_, "t h d");
  put(step, layer, "k", k_, "t h d");
  put(step, layer, "v", v_, "t h d");

  progress_.enter("attention", layer);
  step.clock.mark("attention", layer, &StageTimes::attention);
  attention.attend(layer, q_, 1.0 / std::sqrt(static_cast<double>(c.head_dim)), out_, lse_);
  put(step, layer, "attention", out_, "t h d");
  put(step, layer, "attention_lse", lse_, "t h");

  progress_.enter("output projection", layer);
  step.clock.mark("output projection", layer, &StageTimes::qkv);
  w.output.product->apply(out_.reshaped({rows_, q_size}), hidden_, stream_, residual_);
  put(step, layer, "post_attention", hidden_, "t d");
}

// hidden += mlp(norm(hidden))
void CudaDecoder::mlp_block(int layer, Step& step) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  progress_.enter(w.sparse ? "experts" : "mlp", layer);
  step.clock.mark(w.sparse ? "experts" : "mlp", layer, &StageTimes::mlp);
  cuda::NvtxRange range(w.sparse ? "experts" : "mlp", layer);
  ops::cuda::rms_norm(hidden_, w.post_norm.view(), config_.rms_norm_eps, x_, stream_);
  put(step, layer, "post_norm", x_, "t d");
  // The MLP's own output is formed only for those who ask: else it is added where it is made.
  const bool separate = wanted(step, layer, "mlp");
  const TensorView out = separate ? y_ : hidden_;
  if (w.sparse)
    expert_mlp(layer, step, w, out, !separate);
  else
    dense_mlp(w, out, !separate);
  if (!separate) return;
  put(step, layer, "mlp", y_, "t d");
  ops::cuda::add(hidden_, y_, stream_);
}

void CudaDecoder::dense_mlp(const CudaLayerWeights& w, TensorView out, bool residual) {
  for (int64_t begin = 0; begin < rows_; begin += kMlpRows) {
    const int64_t n = std::min(kMlpRows, rows_ - begin);
    w.gate_up.product->apply(x_.row_range(begin, n), gate_up_.row_range(0, n), stream_, plain_);
    ops::cuda::swiglu(gate_up_.row_range(0, n), act_.row_range(0, n), stream_);
    w.down.product->apply(act_.row_range(0, n), out.row_range(begin, n), stream_,
                          residual ? residual_ : plain_);
  }
}

void CudaDecoder::expert_mlp(int layer, Step& step, const CudaLayerWeights& w, TensorView out,
                             bool residual) {
  w.router.product->apply(x_, router_logits_, stream_, plain_);
  w.experts.product->route(router_logits_, topk_ids_, topk_weights_, stream_);
  put(step, layer, "router_logits", router_logits_, "t e");
  put(step, layer, "topk_ids", topk_ids_, "t k");
  put(step, layer, "topk_weights", topk_weights_, "t k");
  for (int64_t begin = 0; begin < rows_; begin += kMlpRows) {
    const int64_t n = std::min(kMlpRows, rows_ - begin);
    w.experts.product->apply(x_.row_range(begin, n), topk_ids_.row_range(begin, n),
                             topk_weights_.row_range(begin, n), out.row_range(begin, n), residual,
                             expert_scratch_, stream_);
  }
}

void CudaDecoder::choose(Step& step) {
  progress_.enter("logits");
  const auto answers = static_cast<int64_t>(step.in.answer_rows.size());
  if (wanted(step, -1, "final_norm") || wanted(step, -1, "logits")) {
    ops::cuda::rms_norm(hidden_, weights_.final_norm.view(), config_.rms_norm_eps, x_, stream_);
    put(step, -1, "final_norm", x_, "t d");
    if (wanted(step, -1, "logits")) {
      step.sink->wait();
      // All rows are more than a GPU should hold at once: they gather on the host.
      Tensor all(DType::f32, {rows_, config_.vocab_size});
      for (int64_t begin = 0; begin < rows_; begin += kLogitRows) {
        const int64_t n = std::min(kLogitRows, rows_ - begin);
        weights_.lm_head.product->apply(x_.row_range(begin, n), logits_.row_range(0, n), stream_,
                                        plain_);
        const TensorView to = all.view().row_range(begin, n);
        LH_CUDA(cudaMemcpyAsync(to.data, logits_.data, static_cast<size_t>(to.num_bytes()),
                                cudaMemcpyDeviceToHost, stream_));
        LH_CUDA(cudaStreamSynchronize(stream_));
      }
      step.in.sink->write("logits", all, "t v");
    }
  }
  if (answers == 0) return;
  ops::cuda::gather_rows(hidden_, answer_rows_, last_, stream_);
  ops::cuda::rms_norm(last_, weights_.final_norm.view(), config_.rms_norm_eps, last_norm_, stream_);
  weights_.lm_head.product->apply(last_norm_, logits_.row_range(0, answers), stream_, plain_);
  ops::cuda::argmax_rows(logits_.row_range(0, answers), answer_ids_, stream_);
}

}  // namespace longhaul::model
