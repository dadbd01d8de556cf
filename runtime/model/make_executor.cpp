#include "runtime/model/make_executor.h"

#include "runtime/model/host_executor.h"
#if LONGHAUL_HAS_CUDA
#include "runtime/model/cuda/cuda_executor.h"
#endif

namespace longhaul::model {

DType default_dtype(const io::ModelConfig& config, DeviceKind device) {
  return device == DeviceKind::cuda && config.stored_dtype == DType::bf16 ? DType::bf16
                                                                          : DType::f32;
}

std::unique_ptr<Executor> make_executor(const io::ModelConfig& config, io::Checkpoint& checkpoint,
                                        DType compute, attention::Backend& backend,
                                        ThreadPool& pool, Progress& progress,
                                        const ExecutorOptions& options) {
  if (backend.device() == DeviceKind::cuda) {
#if LONGHAUL_HAS_CUDA
    return make_cuda_executor(config, checkpoint, compute, progress, options);
#else
    LH_CHECK(false, "backend {} in a build without CUDA", backend.name());
#endif
  }
  if (options.exchange != "auto" || options.wait_in_kernel)
    fail(ExitCode::usage, "--{}: for GPUs only; leave it out with backend {}",
         options.wait_in_kernel ? "wait-in-kernel" : "exchange", backend.name());
  if (options.deterministic)
    fail(ExitCode::usage,
         "--deterministic: this version gives the same bits for any split on GPUs only; leave it "
         "out "
         "with backend {}",
         backend.name());
  Decoder decoder(config, load_weights(checkpoint, config, compute, progress), compute, pool,
                  progress);
  return std::make_unique<HostExecutor>(std::move(decoder), backend, pool, progress,
                                        options.attention, options.page_size);
}

}  // namespace longhaul::model
