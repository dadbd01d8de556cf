#pragma once
// The executor for a backend's device.

#include <memory>
#include <string>

#include "attention/context_parallel.h"
#include "runtime/core/progress.h"
#include "runtime/io/checkpoint.h"
#include "runtime/model/executor.h"

namespace longhaul::model {

struct ExecutorOptions {
  attention::ContextParallelAttention::Options attention;
  int64_t page_size = 64;         // tokens a page of the KV cache
  bool deterministic = false;     // the same bits for any split, batch mix and repetition
  bool wait_in_kernel = false;    // GPUs: attention starts before the exchange has ended
  std::string exchange = "auto";  // GPUs: how KV travels (comm/cuda/gather.h)
};

// What a model computes in when nobody says: float32 on CPU ranks; as stored on GPUs, where float16
// and float64 checkpoints run in float32.
DType default_dtype(const io::ModelConfig& config, DeviceKind device);

// Reads the weights onto the backend's device. Borrows everything, the checkpoint too; `backend` is
// prepared. Throws Error(mismatch) where the checkpoint does not fit the config, Error(usage) where
// the device cannot run what is asked, Error(resource) where the weights do not fit.
std::unique_ptr<Executor> make_executor(const io::ModelConfig& config, io::Checkpoint& checkpoint,
                                        DType compute, attention::Backend& backend,
                                        ThreadPool& pool, Progress& progress,
                                        const ExecutorOptions& options);

}  // namespace longhaul::model
