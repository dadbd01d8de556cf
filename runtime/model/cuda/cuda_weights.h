#pragma once
// A decoder's weights in GPU memory.

#include <memory>

#include "moe/cuda/experts.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/core/progress.h"
#include "runtime/io/checkpoint.h"
#include "runtime/model/model_loader.h"
#include "runtime/ops/cuda/linear.h"

namespace longhaul::model {

// A dense layer and the memory of its weight [out, in] and bias [out].
struct CudaLinear {
  cuda::DeviceTensor weight, bias;  // weight undefined: the embedding's
  std::unique_ptr<ops::cuda::Linear> product;
  int64_t out_features = 0;
};

// All experts of a layer, one behind the other.
struct CudaExperts {
  cuda::DeviceTensor gate_up;  // [experts, 2 intermediate, hidden], gate rows first
  cuda::DeviceTensor down;     // [experts, hidden, intermediate]
  std::unique_ptr<moe::cuda::Experts> product;
};

struct CudaWeights {
  using Vector = cuda::DeviceTensor;
  using Linear = CudaLinear;
  using Table = cuda::DeviceTensor;
  using Experts = CudaExperts;
};
using CudaLayerWeights = LayerOf<CudaWeights>;
using CudaModelWeights = ModelOf<CudaWeights>;

// Weights of files are read through their memory map and copied tensor by tensor; random ones are
// made on the device, the same bits as on a CPU rank. Throws what load_weights throws, and
// Error(resource) where the device is too small. Everything is done when it returns.
CudaModelWeights load_cuda_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config,
                                   DType compute, Progress& progress);

}  // namespace longhaul::model
