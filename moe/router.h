#pragma once
// Softmax top-k routing of tokens to experts (Qwen3-MoE, Mixtral form).

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::moe {

struct RouterConfig {
  int num_experts = 0;
  int top_k = 0;
  bool normalize = false;  // divide the k weights by their sum (norm_topk_prob)
};

// logits [rows, num_experts], f32 or f64. ids [rows, top_k] i32 in order of falling probability,
// equal probabilities in order of the expert number; weights [rows, top_k] of logits' dtype:
// softmax over all experts, computed in the logits' dtype. A NaN logit loses against every number;
// its row's weights are NaN, so that the fault shows instead of being routed away.
void route(ConstTensorView logits, const RouterConfig& config, TensorView ids, TensorView weights,
           ThreadPool& pool);

}  // namespace longhaul::moe
