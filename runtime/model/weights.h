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
#include "runtime/model/model_loader.h"
#include "runtime/ops/linear.h"

namespace longhaul::model {

// The parts in a CPU rank's form.
struct HostWeights {
  using Vector = Tensor;
  using Linear = ops::Linear;
  using Table = ConstTensorView;  // as stored; lives as long as the checkpoint
  using Experts = std::unique_ptr<moe::Experts>;
};
using LayerWeights = LayerOf<HostWeights>;
using ModelWeights = ModelOf<HostWeights>;

// Throws Error(mismatch) with the tensor's name and both shapes where the checkpoint does not fit
// the config. The checkpoint must outlive the weights.
ModelWeights load_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
                          Progress& progress);

}  // namespace longhaul::model
