#pragma once
// The layers of a decoder on a GPU, enqueued on one stream.

#include <functional>
#include <span>

#include "attention/cuda/device_attention.h"
#include "runtime/core/cuda/tables.h"
#include "runtime/core/progress.h"
#include "runtime/model/cuda/cuda_weights.h"
#include "runtime/model/cuda/stage_clock.h"
#include "runtime/model/executor.h"
#include "runtime/ops/rope.h"

namespace longhaul::model {

class CudaDecoder {
 public:
  CudaDecoder(const io::ModelConfig& config, CudaModelWeights weights, DType compute,
              bool deterministic, cudaStream_t stream, Progress& progress);

  const io::ModelConfig& config() const { return config_; }
  DType compute_dtype() const { return compute_; }
  uint64_t weights_content() const { return weights_.content; }
  attention::cuda::Shape attention_shape() const;

  // Looks for the fastest matrix products of steps of about so many rows. Synchronises.
  void prepare(int64_t rows);

  // Called with the path of an intermediate ("layers.03.q") where `wants` says so: copies the rows
  // to the host.
  struct Sink {
    std::function<bool(const std::string& path)> wants;
    std::function<void(const std::string& path, ConstTensorView rows, const char* dims)> write;
    std::function<void()> wait;  // for the stream, under the watchdog's eyes
  };
  struct Step {
    const StepInput& in;
    attention::cuda::DeviceAttention& attention;
    StageClock& clock;
    const Sink* sink;                               // null: nobody wants anything
    std::function<void(int layer)> layer_enqueued;  // keeps the host from running far ahead
  };

  // Takes the step's scratch from the arena: run once on a measuring arena, then on a real one.
  void take_scratch(cuda::Arena& arena, int64_t rows, int64_t answers, bool all_logits);
  // The work of the step before must be done on the device. Enqueues everything. The chosen tokens
  // are at answers() once the stream is done.
  void enqueue(Step& step);
  const int32_t* answers() const { return answer_ids_.as<int32_t>(); }  // device [answers]

 private:
  void attention_block(int layer, Step& step);
  void mlp_block(int layer, Step& step);
  void dense_mlp(const CudaLayerWeights& w, TensorView out, bool residual);
  void expert_mlp(int layer, Step& step, const CudaLayerWeights& w, TensorView out, bool residual);
  void choose(Step& step);
  void put(Step& step, int layer, const char* name, ConstTensorView rows, const char* dims);
  bool wanted(Step& step, int layer, const char* name) const;

  const io::ModelConfig config_;
  CudaModelWeights weights_;
  DType compute_;
  ops::cuda::LinearOptions plain_, residual_;  // y = x W^T, y += x W^T
  cudaStream_t stream_;
  Progress& progress_;
  cuda::DeviceTensor inverse_frequencies_;  // [head_dim / 2] f64
  double rope_scaling_ = 1;

  cuda::StepTables tables_;

  // Scratch of the step, device memory.
  int64_t rows_ = 0;
  TensorView ids_, positions_, answer_rows_;  // in tables_
  TensorView cos_, sin_;
  TensorView hidden_, x_, qkv_, q_, k_, v_, out_, lse_, y_;
  TensorView gate_up_, act_;
  TensorView router_logits_, topk_ids_, topk_weights_;
  void* expert_scratch_ = nullptr;
  TensorView last_, last_norm_, logits_, answer_ids_;
};

}  // namespace longhaul::model
