#pragma once
// The executor of GPU ranks: the whole layer on one stream, no allocation and no host
// synchronisation inside a layer.

#include <memory>

#include "runtime/model/make_executor.h"

namespace longhaul::model {

// As make_executor; the calling thread's device must be set (cuda::open_device).
std::unique_ptr<Executor> make_cuda_executor(const io::ModelConfig& config,
                                             io::Checkpoint& checkpoint, DType compute,
                                             Progress& progress, const ExecutorOptions& options);

}  // namespace longhaul::model
