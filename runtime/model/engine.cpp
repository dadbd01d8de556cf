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

}  // namespace

struct Engine::State {
  std::vector<std::vector<int32_t>> tokens;  // [num_sequences] prompt, then generated
  io::ActivationSink* sink;
  layout::KvOwnership ownership;
  layout::RankLoad load;
  Flops flops;          // of this rank
  double choosing = 0;  // seconds in which ranks told each other the next tokens

  State(int cp, std::span<const std::vector<int32_t>> prompts, io::ActivationSink* s)
      : tokens(prompts.begin(), prompts.end()),
        sink(s),
        ownership(cp, static_cast<int>(prompts.size())) {
    load.tokens.assign(static_cast<size_t>(cp), 0);
    load.area.assign(static_cast<size_t>(cp), 0.0);
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

Engine::Engine(comm::Communicator& cp_comm, Executor& executor, Progress& progress,
               EngineOptions options)
    : comm_(cp_comm), executor_(executor), progress_(progress), options_(options) {}

RunResult Engine::run(std::span<const std::vector<int32_t>> prompts, io::ActivationSink* sink,
                      const std::function<void(const StepReport&)>& on_step) {
  const auto start = Clock::now();
  State state(comm_.size(), prompts, sink);
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
  std::vector<int64_t> total_lengths = lengths;
  for (int64_t& n : total_lengths) n += std::max<int64_t>(options_.generate - 1, 0);
  executor_.begin_run(comm_, total_lengths);
  std::vector<int32_t> next(prompts.size(), -1);
  const auto steps = prefill_schedule(lengths, options_.chunk_tokens);
  for (size_t i = 0; i < steps.size(); ++i) {
    step(state, steps[i], next);
    for (const layout::SequenceExtent& e : steps[i]) done += e.extend;
    on_step({"prefill", static_cast<int64_t>(i), static_cast<int64_t>(steps.size()), done, total});
  }
  result.ttft_seconds = seconds_since(start);
  result.prefill_flops = state.flops;
  result.prefill_times = executor_.times();
  result.prefill_times.logits += state.choosing;
  result.prefill_imbalance = state.imbalance();

  progress_.phase = "generate";
  const auto& eos = executor_.config().eos_token_ids;
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
  result.kv_cache_bytes = executor_.kv_cache_bytes();
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
  // Sequences whose last known token is in this step, and where its row is.
  std::vector<int> answered;
  std::vector<int64_t> rows;
  bool any = false;
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
    const auto length = static_cast<int64_t>(state.tokens[static_cast<size_t>(s)].size());
    if (e.extend == 0 || e.prefix + e.extend != length) continue;
    any = true;
    const auto place = layout.place(s, length - 1);
    if (place.cp_rank != rank) continue;
    answered.push_back(s);
    rows.push_back(place.row);
  }

  state.flops += step_flops(executor_.config(), static_cast<int64_t>(ids.size()), layout.area(rank),
                            static_cast<int64_t>(rows.size()));

  if (state.sink != nullptr) state.sink->begin_step(layout, rank);
  const std::vector<int32_t> own =
      executor_.step({{ids, positions}, layout, state.ownership, rows, state.sink});
  if (state.sink != nullptr) state.sink->end_step();
  if (!any) return;

  StageTimer timer(state.choosing);
  progress_.enter("next tokens");
  std::vector<int32_t> chosen(next_tokens.size(), -1);
  for (size_t i = 0; i < answered.size(); ++i) chosen[static_cast<size_t>(answered[i])] = own[i];
  comm_.all_reduce(chosen.data(), static_cast<int64_t>(chosen.size()), DType::i32,
                   comm::ReduceOp::max, {"next tokens"});
  for (size_t s = 0; s < chosen.size(); ++s)
    if (chosen[s] >= 0) next_tokens[s] = chosen[s];
}

}  // namespace longhaul::model
