#include "runtime/model/cuda/cuda_executor.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <utility>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/gather.h"
#include "comm/single_communicator.h"
#include "runtime/core/log.h"
#include "runtime/core/trace.h"
#include "runtime/model/cuda/cuda_decoder.h"
#include "runtime/ops/cuda/machine_peak.h"

namespace longhaul::model {
namespace {

// Layers that the host may have enqueued beyond the one that the device works on: enough that the
// device never waits for the host, few enough that "no progress" means something.
constexpr size_t kLayersAhead = 4;
constexpr int64_t kWarmUpRows = 16384;

class CudaExecutor final : public Executor {
 public:
  CudaExecutor(const io::ModelConfig& config, io::Checkpoint& checkpoint, DType compute,
               Progress& progress, const ExecutorOptions& options)
      : options_(options),
        progress_(progress),
        decoder_(config, load_cuda_weights(checkpoint, config, compute, progress), compute,
                 options.deterministic, stream_, progress),
        clock_(stream_) {}

  const io::ModelConfig& config() const override { return decoder_.config(); }
  DType compute_dtype() const override { return decoder_.compute_dtype(); }
  uint64_t weights_content() const override { return decoder_.weights_content(); }

  void prepare(comm::Communicator& comm, int64_t rows) override;

  void begin_run(comm::Communicator& comm, std::span<const int64_t> total_lengths) override {
    run_.reset();
    run_ = std::make_unique<Run>(*this, comm, gather_for(comm), total_lengths);
  }

  std::vector<int32_t> step(const StepInput& in) override;

  double matmul_ceiling() override {
    run_.reset();
    arena_ = {};
    try {
      return 1e-12 * ops::cuda::matmul_ceiling(stream_);
    } catch (const Error& e) {
      if (e.code() == ExitCode::resource) return 0;  // no room to measure it
      throw;
    }
  }
  std::string device_name() const override { return cuda::current_device().name; }

  comm::Communicator::Traffic device_traffic() const override {
    comm::Communicator::Traffic t = gathered();
    t.sent_bytes -= warm_up_traffic_.sent_bytes;
    t.received_bytes -= warm_up_traffic_.received_bytes;
    return t;
  }

  StageTimes times() const override { return run_->times; }
  int64_t kv_cache_bytes() const override { return run_->cache.num_bytes(); }

 private:
  struct Run {
    comm::Communicator& comm;
    attention::cuda::DeviceKvCache cache;
    attention::cuda::DeviceAttention attention;
    StageTimes times;

    Run(CudaExecutor& e, comm::Communicator& c, comm::cuda::Gather* gather,
        std::span<const int64_t> total_lengths)
        : comm(c),
          cache(e.cache_shape(total_lengths.size())),
          attention(c, gather, cache, e.stream_,
                    {e.options_.deterministic, e.options_.wait_in_kernel}) {
      const int64_t page = e.options_.page_size;
      int64_t pages = 0;
      for (int64_t n : total_lengths) pages += (n + page - 1) / page;
      if (gather != nullptr) {
        // About its share, and a page more a sequence; what does not fit comes step by step.
        const auto sequences = static_cast<int64_t>(total_lengths.size());
        cache.add_slab(pages / c.size() + pages / 32 + sequences);
        return;
      }
      // A rank alone reads its keys where they are stored: every sequence in one piece.
      cache.add_slab(pages);
      cache.reserve_totals(total_lengths);
    }
  };

  attention::cuda::DeviceKvCacheShape cache_shape(size_t num_sequences) const {
    const io::ModelConfig& c = decoder_.config();
    attention::cuda::DeviceKvCacheShape shape;
    shape.num_layers = c.num_layers;
    shape.num_sequences = static_cast<int>(num_sequences);
    shape.row_elements = 2 * c.num_kv_heads * c.head_dim;
    shape.page_size = options_.page_size;
    shape.dtype = decoder_.compute_dtype();
    return shape;
  }

  // Collective the first time.
  comm::cuda::Gather* gather_for(comm::Communicator& comm) {
    if (comm.size() == 1) return nullptr;
    std::unique_ptr<comm::cuda::Gather>& gather = gathers_[&comm];
    if (gather == nullptr) {
      std::string why;
      gather = comm::cuda::make_gather(comm, options_.exchange, &why);
      if (comm.rank() == 0) spdlog::info("KV exchange: {}", why);
    }
    return gather.get();
  }

  // A first gather, of a few bytes: NCCL connects its ranks when they first talk to each other.
  void warm_up(comm::Communicator& comm, comm::cuda::Gather& gather) {
    constexpr int64_t kBytes = 256;
    const auto ranks = static_cast<size_t>(comm.size());
    comm::cuda::GatherPlan plan;
    plan.send.assign(ranks, {{comm.rank() * kBytes, kBytes}});
    for (int64_t r = 0; r < comm.size(); ++r) plan.recv.push_back({{r * kBytes, kBytes}});
    plan.send[static_cast<size_t>(comm.rank())].clear();
    plan.recv[static_cast<size_t>(comm.rank())].clear();
    gather.reserve(comm.size() * kBytes);
    gather.set_plan(std::move(plan));
    for (int i = 0; i < 2; ++i) {  // both buffers
      gather.start(gather.next_parity(), stream_, {"first gather"});
      gather.finish(stream_);
    }
    step_done_.record(stream_);
    comm::cuda::wait_device(comm, step_done_, {"first gather"}, [&] { gather.check(); });
  }

  // Of all gathers; what goes through the host is the host communicator's to count.
  comm::Communicator::Traffic gathered() const {
    comm::Communicator::Traffic sum;
    for (const auto& [comm, gather] : gathers_) {
      if (gather->name() == "staged") continue;
      sum.sent_bytes += gather->traffic().sent_bytes;
      sum.received_bytes += gather->traffic().received_bytes;
    }
    return sum;
  }

  void wait(const comm::OpLabel& label, const cuda::Event& event) {
    comm::cuda::Gather* gather = run_->comm.size() > 1 ? gather_for(run_->comm) : nullptr;
    comm::cuda::wait_device(run_->comm, event, label, [gather] {
      if (gather != nullptr) gather->check();
    });
  }

  const ExecutorOptions options_;
  Progress& progress_;
  cuda::Stream stream_;
  CudaDecoder decoder_;
  StageClock clock_;
  cuda::Arena arena_;
  std::array<cuda::Event, kLayersAhead> layer_done_;
  cuda::Event step_done_;
  std::unique_ptr<Run> run_;
  // Go first: they let streams go that wait for other ranks, and freeing memory waits for streams.
  std::map<comm::Communicator*, std::unique_ptr<comm::cuda::Gather>> gathers_;
  comm::Communicator::Traffic warm_up_traffic_;
};

// Kernels are loaded at their first launch and matrix products look for their algorithm: a step of
// made-up tokens does all of it.
void CudaExecutor::prepare(comm::Communicator& comm, int64_t rows) {
  if (comm::cuda::Gather* gather = gather_for(comm)) warm_up(comm, *gather);
  warm_up_traffic_ = gathered();
  rows = std::clamp<int64_t>(rows, 1, kWarmUpRows);
  decoder_.prepare(rows);
  const auto alone = comm::make_single_communicator();
  const layout::SequenceExtent extent{0, rows};
  const auto layout = layout::BatchLayout::make(layout::LayoutKind::zigzag, 1, {&extent, 1});
  layout::KvOwnership ownership(1, 1);
  ownership.append(layout);
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
  std::vector<int64_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), 0);
  const int64_t last = rows - 1;
  begin_run(*alone, {&rows, 1});
  step({{ids, positions}, layout, ownership, {&last, 1}, nullptr});
  run_.reset();
}

std::vector<int32_t> CudaExecutor::step(const StepInput& in) {
  LH_CHECK(run_ != nullptr, "a step before begin_run");
  const auto rows = static_cast<int64_t>(in.tokens.ids.size());
  const auto answers = static_cast<int64_t>(in.answer_rows.size());
  const bool all_logits = in.sink != nullptr && in.sink->wants("logits");
  cuda::Arena measure;
  decoder_.take_scratch(measure, rows, answers, all_logits);
  arena_.reserve(measure.used(), "a step's activations");
  decoder_.take_scratch(arena_, rows, answers, all_logits);
  run_->attention.begin_step(decoder_.attention_shape(), in.layout, in.ownership);

  CudaDecoder::Sink sink;
  sink.wants = [&](const std::string& path) { return in.sink->wants(path); };
  // Comes before any copy: one to pageable memory blocks the host, unseen by the watchdog.
  sink.wait = [&] {
    step_done_.record(stream_);
    wait({"dump"}, step_done_);
  };
  sink.write = [&](const std::string& path, ConstTensorView device, const char* dims) {
    sink.wait();
    Tensor host(device.dtype, device.shape);
    LH_CUDA(cudaMemcpyAsync(host.data(), device.data, static_cast<size_t>(host.num_bytes()),
                            cudaMemcpyDeviceToHost, stream_));
    LH_CUDA(cudaStreamSynchronize(stream_));
    in.sink->write(path, host, dims);
  };
  CudaDecoder::Step step{in, run_->attention, clock_, in.sink != nullptr ? &sink : nullptr,
                         [&](int layer) {
                           const auto i = static_cast<size_t>(layer);
                           if (i >= kLayersAhead)
                             wait({"layer", layer}, layer_done_[i % kLayersAhead]);
                           layer_done_[i % kLayersAhead].record(stream_);
                         }};
  clock_.set_tracing(progress_.trace.load() != nullptr);
  clock_.begin();
  decoder_.enqueue(step);
  clock_.end();
  step_done_.record(stream_);
  wait({"step"}, step_done_);
  const auto pieces = clock_.collect(run_->times);
  if (Trace* trace = progress_.trace.load()) {
    const auto at = [&](double seconds) {
      return clock_.began() + std::chrono::duration_cast<Trace::Clock::duration>(
                                  std::chrono::duration<double>(seconds));
    };
    for (const StageClock::Piece& p : pieces)
      trace->span(p.other_stream ? TraceTrack::exchange : TraceTrack::compute, p.name, p.layer,
                  at(p.begin), at(p.end));
  }
  std::vector<int32_t> chosen(in.answer_rows.size());
  if (!chosen.empty()) {
    LH_CUDA(cudaMemcpyAsync(chosen.data(), decoder_.answers(), chosen.size() * sizeof(int32_t),
                            cudaMemcpyDeviceToHost, stream_));
    LH_CUDA(cudaStreamSynchronize(stream_));
  }
  return chosen;
}

}  // namespace

std::unique_ptr<Executor> make_cuda_executor(const io::ModelConfig& config,
                                             io::Checkpoint& checkpoint, DType compute,
                                             Progress& progress, const ExecutorOptions& options) {
  if (options.attention.two_calls)
    fail(ExitCode::usage,
         "--two-calls: GPUs compute both halves in one launch; --backend cpu or reference has the "
         "form of two calls");
  if (compute != DType::bf16 && compute != DType::f32)
    fail(ExitCode::usage, "--dtype {}: GPUs compute in bf16 or f32; --backend cpu does it",
         dtype_name(compute));
  return std::make_unique<CudaExecutor>(config, checkpoint, compute, progress, options);
}

}  // namespace longhaul::model
