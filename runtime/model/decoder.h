#pragma once
// A decoder model (Llama, Qwen2, Qwen3, Qwen3-MoE) on the local tokens of one rank. Only attention
// looks beyond them, through ContextParallelAttention.

#include <cstdint>
#include <memory>
#include <span>

#include "attention/context_parallel.h"
#include "runtime/core/progress.h"
#include "runtime/io/activation_sink.h"
#include "runtime/model/executor.h"
#include "runtime/model/stage_times.h"
#include "runtime/model/weights.h"
#include "runtime/ops/rope.h"

namespace longhaul::model {

class Decoder {
 public:
  // Borrows the pool and the progress; owns the weights. The checkpoint they came from must stay.
  Decoder(const io::ModelConfig& config, ModelWeights weights, DType compute, ThreadPool& pool,
          Progress& progress);

  const io::ModelConfig& config() const { return config_; }
  DType compute_dtype() const { return compute_; }
  uint64_t weights_content() const { return weights_.content; }  // equal weights, equal hash

  // All layers over the local tokens -> the residual stream [rows, hidden]. Call
  // attention.begin_step first. `sink` may be null; it gets every intermediate that it wants.
  Tensor forward(const LocalTokens& tokens, attention::ContextParallelAttention& attention,
                 io::ActivationSink* sink, StageTimes& times);

  // Final norm and vocabulary projection of the given rows of the residual stream ->
  // [rows, vocab] in accumulator precision. A sink that wants final_norm gets it.
  Tensor logits(ConstTensorView hidden, io::ActivationSink* sink, StageTimes& times);

 private:
  struct Step;  // what the layers of one step share
  void attention_block(int layer, Step& step, TensorView hidden);
  void mlp_block(int layer, Step& step, TensorView hidden);
  void dense_mlp(const LayerWeights& w, ConstTensorView x, TensorView out);
  void expert_mlp(int layer, Step& step, ConstTensorView x, TensorView out);
  void put(Step& step, int layer, const char* name, ConstTensorView rows, const char* dims);

  io::ModelConfig config_;
  ModelWeights weights_;
  DType compute_;
  ThreadPool& pool_;
  Progress& progress_;
  ops::Rope rope_;
};

}  // namespace longhaul::model
