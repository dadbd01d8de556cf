#include "runtime/model/host_executor.h"

#include <cstring>
#include <utility>

namespace longhaul::model {
namespace {

// First of the largest: equal logits give the lower token id, as torch.argmax does on a CPU.
int32_t argmax(ConstTensorView row) {
  return dispatch_float(row.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = row.as<T>();
    int64_t best = 0;
    for (int64_t i = 1; i < row.num_elements(); ++i)
      if (static_cast<accumulator_t<T>>(x[i]) > static_cast<accumulator_t<T>>(x[best])) best = i;
    return static_cast<int32_t>(best);
  });
}

attention::KvCacheShape cache_shape(const Decoder& decoder, size_t num_sequences,
                                    int64_t page_size) {
  const io::ModelConfig& c = decoder.config();
  attention::KvCacheShape shape;
  shape.num_layers = c.num_layers;
  shape.num_sequences = static_cast<int>(num_sequences);
  shape.num_kv_heads = c.num_kv_heads;
  shape.head_dim = c.head_dim;
  shape.head_dim_v = c.head_dim;
  shape.page_size = page_size;
  shape.dtype = decoder.compute_dtype();
  return shape;
}

}  // namespace

struct HostExecutor::Run {
  attention::PagedKvCache cache;
  attention::ContextParallelAttention attention;
  StageTimes times;

  Run(HostExecutor& e, comm::Communicator& comm, size_t num_sequences)
      : cache(cache_shape(e.decoder_, num_sequences, e.page_size_)),
        attention(comm, e.backend_, e.pool_, cache, e.options_) {}
};

HostExecutor::HostExecutor(Decoder decoder, attention::Backend& backend, ThreadPool& pool,
                           Progress& progress, attention::ContextParallelAttention::Options options,
                           int64_t page_size)
    : decoder_(std::move(decoder)),
      backend_(backend),
      pool_(pool),
      progress_(progress),
      options_(options),
      page_size_(page_size) {}

HostExecutor::~HostExecutor() = default;

void HostExecutor::begin_run(comm::Communicator& cp_comm, std::span<const int64_t> total_lengths) {
  run_.reset();
  run_ = std::make_unique<Run>(*this, cp_comm, total_lengths.size());
}

std::vector<int32_t> HostExecutor::step(const StepInput& in) {
  LH_CHECK(run_ != nullptr, "a step before begin_run");
  run_->attention.begin_step(in.layout, in.ownership);
  const Tensor hidden = decoder_.forward(in.tokens, run_->attention, in.sink, run_->times);
  std::vector<int32_t> chosen;
  const bool dump_rows =
      in.sink != nullptr && (in.sink->wants("final_norm") || in.sink->wants("logits"));
  if (dump_rows) {
    const Tensor logits = decoder_.logits(hidden, in.sink, run_->times);
    if (in.sink->wants("logits")) in.sink->write("logits", logits, "t v");
    for (int64_t row : in.answer_rows) chosen.push_back(argmax(logits.view().row_range(row, 1)));
  } else if (!in.answer_rows.empty()) {
    const auto count = static_cast<int64_t>(in.answer_rows.size());
    Tensor last(hidden.dtype(), {count, hidden.shape()[1]});
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(last.view().row_range(i, 1).data,
                  hidden.view().row_range(in.answer_rows[static_cast<size_t>(i)], 1).data,
                  static_cast<size_t>(hidden.view().row_bytes()));
    const Tensor logits = decoder_.logits(last, nullptr, run_->times);
    for (int64_t i = 0; i < count; ++i) chosen.push_back(argmax(logits.view().row_range(i, 1)));
  }
  return chosen;
}

StageTimes HostExecutor::times() const {
  StageTimes t = run_->times;
  const attention::AttentionTimes& a = run_->attention.times();
  t.exchange_exposed = a.exchange_exposed;
  t.exchange_hidden = a.exchange_hidden;
  t.attention = a.compute;
  return t;
}

int64_t HostExecutor::kv_cache_bytes() const {
  return run_->cache.num_bytes();
}

}  // namespace longhaul::model
