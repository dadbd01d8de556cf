#pragma once
// The executor of CPU ranks: Decoder on a thread pool, KV in host memory.

#include <memory>
#include <optional>

#include "attention/context_parallel.h"
#include "comm/communicator.h"
#include "runtime/model/decoder.h"
#include "runtime/model/executor.h"

namespace longhaul::model {

class HostExecutor final : public Executor {
 public:
  // Borrows all but the decoder; `backend` is prepared.
  HostExecutor(Decoder decoder, attention::Backend& backend, ThreadPool& pool, Progress& progress,
               attention::ContextParallelAttention::Options options, int64_t page_size);
  ~HostExecutor() override;

  const io::ModelConfig& config() const override { return decoder_.config(); }
  DType compute_dtype() const override { return decoder_.compute_dtype(); }
  uint64_t weights_content() const override { return decoder_.weights_content(); }
  void begin_run(comm::Communicator& cp_comm, std::span<const int64_t> total_lengths) override;
  std::vector<int32_t> step(const StepInput& input) override;
  StageTimes times() const override;
  int64_t kv_cache_bytes() const override;

 private:
  struct Run;  // what one run keeps
  Decoder decoder_;
  attention::Backend& backend_;
  ThreadPool& pool_;
  Progress& progress_;
  const attention::ContextParallelAttention::Options options_;
  const int64_t page_size_;
  std::unique_ptr<Run> run_;
};

}  // namespace longhaul::model
