#include "runtime/model/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "runtime/model/schedule.h"

namespace longhaul::model {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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

struct Engine::State {
  std::vector<std::vector<int32_t>> tokens;  // [num_sequences] prompt, then generated
  io::ActivationSink* sink;
  attention::PagedKvCache cache;
  layout::KvOwnership ownership;
  attention::ContextParallelAttention attention;
  layout::RankLoad load;
  StageTimes times;

  State(Engine& e, std::span<const std::vector<int32_t>> prompts, io::ActivationSink* s)
      : tokens(prompts.begin(), prompts.end()),
        sink(s),
        cache(cache_shape(e.decoder_, prompts.size(), e.options_.page_size)),
        ownership(e.comm_.size(), static_cast<int>(prompts.size())),
        attention(e.comm_, e.backend_, e.pool_, cache, e.options_.attention) {
    load.tokens.assign(static_cast<size_t>(e.comm_.size()), 0);
    load.area.assign(static_cast<size_t>(e.comm_.size()), 0.0);
  }

  StageTimes all_times() const {
    StageTimes t = times;
    const attention::AttentionTimes& a = attention.times();
    t.exchange_exposed = a.exchange_exposed;
    t.exchange_hidden = a.exchange_hidden;
    t.attention = a.compute;
    return t;
  }

  layout::Imbalance imbalance() const {
    auto ratio = [](const auto& loads) {
      double sum = 0, most = 0;
      for (auto x : loads) {
        sum += static_cast<double>(x);
        most = std::max(most, static_cast<double>(x));
      }
      return sum > 0 ? most * static_cast<double>(loads.size()) / sum : 1.0;
    };
    return {ratio(load.tokens), ratio(load.area)};
  }
};

Engine::Engine(comm::Communicator& cp_comm, Decoder& decoder, attention::Backend& backend,
               ThreadPool& pool, Progress& progress, EngineOptions options)
    : comm_(cp_comm),
      decoder_(decoder),
      backend_(backend),
      pool_(pool),
      progress_(progress),
      options_(options) {}

RunResult Engine::run(std::span<const std::vector<int32_t>> prompts, io::ActivationSink* sink,
                      const std::function<void(const StepReport&)>& on_step) {
  const auto start = Clock::now();
  State state(*this, prompts, sink);
  RunResult result;
  result.generated.resize(prompts.size());

  std::vector<int64_t> lengths;
  int64_t total = 0, done = 0;
  for (const auto& p : prompts) {
    LH_CHECK(!p.empty());
    lengths.push_back(static_cast<int64_t>(p.size()));
    total += lengths.back();
  }
  progress_.phase = "prefill";
  std::vector<int32_t> next(prompts.size(), -1);
  const auto steps = prefill_schedule(lengths, options_.chunk_tokens);
  for (size_t i = 0; i < steps.size(); ++i) {
    step(state, steps[i], next);
    for (const layout::SequenceExtent& e : steps[i]) done += e.extend;
    on_step({"prefill", static_cast<int64_t>(i), static_cast<int64_t>(steps.size()), done, total});
  }
  result.ttft_seconds = seconds_since(start);
  result.prefill_times = state.all_times();
  result.prefill_imbalance = state.imbalance();

  progress_.phase = "generate";
  const auto& eos = decoder_.config().eos_token_ids;
  std::vector<bool> stopped(prompts.size(), false);
  for (int64_t g = 0; g < options_.generate; ++g) {
    std::vector<layout::SequenceExtent> extents(prompts.size());
    bool more = false;
    for (size_t s = 0; s < prompts.size(); ++s) {
      extents[s] = {static_cast<int64_t>(state.tokens[s].size()), 0};
      if (stopped[s]) continue;
      result.generated[s].push_back(next[s]);
      stopped[s] = options_.stop_at_eos && std::find(eos.begin(), eos.end(), next[s]) != eos.end();
      if (stopped[s]) continue;
      state.tokens[s].push_back(next[s]);
      extents[s].extend = 1;
      more = true;
    }
    // The last token is an answer only: running it through the model would choose one too many.
    if (!more || g + 1 == options_.generate) break;
    step(state, extents, next);
    on_step({"generate", g, options_.generate - 1, g + 2, options_.generate});
  }
  result.total_seconds = seconds_since(start);
  result.kv_cache_bytes = state.cache.num_bytes();
  return result;
}

void Engine::step(State& state, std::span<const layout::SequenceExtent> extents,
                  std::vector<int32_t>& next_tokens) {
  const int rank = comm_.rank();
  progress_.enter("plan");
  const auto layout =
      layout::BatchLayout::make(options_.layout, comm_.size(), extents, &state.load);
  state.ownership.append(layout);
  for (int r = 0; r < comm_.size(); ++r) {
    state.load.tokens[static_cast<size_t>(r)] += layout.num_tokens(r);
    state.load.area[static_cast<size_t>(r)] += layout.area(r);
  }

  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  for (layout::Half half : {layout::Half::prev, layout::Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      for (int64_t p = block.start; p < block.end(); ++p) {
        ids.push_back(state.tokens[static_cast<size_t>(s)][static_cast<size_t>(p)]);
        positions.push_back(p);
      }
    }
  state.attention.begin_step(layout, state.ownership);
  if (state.sink != nullptr) state.sink->begin_step(layout, rank);
  const Tensor hidden =
      decoder_.forward({ids, positions}, state.attention, state.sink, state.times);
  choose_tokens(state, layout, hidden, next_tokens);
  if (state.sink != nullptr) state.sink->end_step();
}

void Engine::choose_tokens(State& state, const layout::BatchLayout& layout, ConstTensorView hidden,
                           std::vector<int32_t>& next_tokens) {
  // Sequences whose last known token was in this step, and where its row is.
  std::vector<std::pair<int, int64_t>> own;  // sequence, local row
  std::vector<int32_t> chosen(next_tokens.size(), -1);
  bool any = false;
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
    const auto length = static_cast<int64_t>(state.tokens[static_cast<size_t>(s)].size());
    if (e.extend == 0 || e.prefix + e.extend != length) continue;
    any = true;
    const auto place = layout.place(s, length - 1);
    if (place.cp_rank == comm_.rank()) own.emplace_back(s, place.row);
  }

  const bool dump_rows =
      state.sink != nullptr && (state.sink->wants("final_norm") || state.sink->wants("logits"));
  if (dump_rows) {
    const Tensor logits = decoder_.logits(hidden, state.sink, state.times);
    if (state.sink->wants("logits")) state.sink->write("logits", logits, "t v");
    for (auto [s, row] : own)
      chosen[static_cast<size_t>(s)] = argmax(logits.view().row_range(row, 1));
  } else if (!own.empty()) {
    Tensor last(hidden.dtype, {static_cast<int64_t>(own.size()), hidden.shape[1]});
    for (size_t i = 0; i < own.size(); ++i)
      std::memcpy(last.view().row_range(static_cast<int64_t>(i), 1).data,
                  hidden.row_range(own[i].second, 1).data, static_cast<size_t>(hidden.row_bytes()));
    const Tensor logits = decoder_.logits(last, nullptr, state.times);
    for (size_t i = 0; i < own.size(); ++i)
      chosen[static_cast<size_t>(own[i].first)] =
          argmax(logits.view().row_range(static_cast<int64_t>(i), 1));
  }
  if (!any) return;
  StageTimer timer(state.times.logits);
  progress_.enter("next tokens");
  comm_.all_reduce(chosen.data(), static_cast<int64_t>(chosen.size()), DType::i32,
                   comm::ReduceOp::max, {"next tokens"});
  for (size_t s = 0; s < chosen.size(); ++s)
    if (chosen[s] >= 0) next_tokens[s] = chosen[s];
}

}  // namespace longhaul::model
