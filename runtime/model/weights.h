#pragma once
// A decoder's weights as one CPU rank holds them: packed for its matrix kernels, norms converted.

#include <memory>
#include <string>
#include <vector>

#include "moe/experts.h"
#include "runtime/core/progress.h"
#include "runtime/core/tensor.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/model_config.h"
#include "runtime/ops/linear.h"

namespace longhaul::model {

struct LayerWeights {
  Tensor input_norm;  // [hidden]
  ops::Linear qkv;  // hidden -> (num_heads + 2 num_kv_heads) * head_dim: q, k, v one after another
  Tensor q_norm;    // [head_dim], undefined without qk_norm
  Tensor k_norm;    // [head_dim]
  ops::Linear output;  // num_heads * head_dim -> hidden
  Tensor post_norm;    // [hidden]
  // Dense MLP, or router and experts.
  ops::Linear gate_up;  // hidden -> 2 * intermediate, gate rows first
  ops::Linear down;     // intermediate -> hidden
  ops::Linear router;   // hidden -> num_experts
  std::unique_ptr<moe::Experts> experts;
};

struct ModelWeights {
  ConstTensorView embedding;  // [vocab, hidden] as stored; lives as long as the checkpoint
  std::vector<LayerWeights> layers;
  Tensor final_norm;     // [hidden]
  ops::Linear lm_head;   // hidden -> vocab
  uint64_t content = 0;  // hash of every stored byte that was read, for the agreement of ranks
};

// Throws Error(mismatch) with the tensor's name and both shapes where the checkpoint does not fit
// the config. The checkpoint must outlive the weights.
ModelWeights load_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
                          Progress& progress);

}  // namespace longhaul::model
