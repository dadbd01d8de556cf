#include "runtime/model/cuda/stage_clock.h"

#include <algorithm>
#include <string_view>

#include "runtime/core/cuda/check.h"

namespace longhaul::model {

void StageClock::begin() {
  marks_.clear();
  spans_.clear();
  began_ = std::chrono::steady_clock::now();
}

void StageClock::mark(const char* name, int layer, Stage stage) {
  if (events_.size() == marks_.size()) events_.emplace_back(cuda::Event::Timing::on);
  events_[marks_.size()].record(stream_);
  marks_.push_back({name, layer, stage});
}

void StageClock::begin_span(const char* name, int layer) {
  if (!tracing_) return;
  spans_.push_back(
      {name, layer, cuda::Event(cuda::Event::Timing::on), cuda::Event(cuda::Event::Timing::on)});
  spans_.back().begin.record(stream_);
}

void StageClock::end_span(cudaStream_t other) {
  if (tracing_) spans_.back().end.record(other);
}

std::vector<StageClock::Piece> StageClock::collect(StageTimes& times) {
  std::vector<Piece> pieces;
  double now = 0;
  for (size_t i = 0; i + 1 < marks_.size(); ++i) {
    const double seconds = 1e-3 * cuda::milliseconds_between(events_[i], events_[i + 1]);
    if (marks_[i].stage != nullptr) times.*marks_[i].stage += seconds;
    pieces.push_back({marks_[i].name, marks_[i].layer, now, now + seconds, false});
    now += seconds;
  }
  for (const Span& s : spans_) {
    // What this rank sends may end after the step's own work; it waits for nobody.
    LH_CUDA(cudaEventSynchronize(s.end.get()));
    const Piece span{s.name, s.layer, 1e-3 * cuda::milliseconds_between(events_[0], s.begin),
                     1e-3 * cuda::milliseconds_between(events_[0], s.end), true};
    // What of it the clock's stream did not wait for in a piece of the same name.
    times.exchange_hidden += span.end - span.begin;
    for (const Piece& p : pieces)
      if (!p.other_stream && p.layer == s.layer && std::string_view(p.name) == s.name)
        times.exchange_hidden -=
            std::max(0.0, std::min(p.end, span.end) - std::max(p.begin, span.begin));
    pieces.push_back(span);
  }
  marks_.clear();
  spans_.clear();
  return pieces;
}

}  // namespace longhaul::model
