#include "runtime/model/cuda/stage_clock.h"

namespace longhaul::model {

void StageClock::begin() {
  marks_.clear();
  began_ = std::chrono::steady_clock::now();
}

void StageClock::mark(const char* name, int layer, Stage stage) {
  if (events_.size() == marks_.size()) events_.emplace_back(cuda::Event::Timing::on);
  events_[marks_.size()].record(stream_);
  marks_.push_back({name, layer, stage});
}

std::vector<StageClock::Piece> StageClock::collect(StageTimes& times) {
  std::vector<Piece> pieces;
  double now = 0;
  for (size_t i = 0; i + 1 < marks_.size(); ++i) {
    const double seconds = 1e-3 * cuda::milliseconds_between(events_[i], events_[i + 1]);
    if (marks_[i].stage != nullptr) times.*marks_[i].stage += seconds;
    pieces.push_back({marks_[i].name, marks_[i].layer, now, now + seconds});
    now += seconds;
  }
  marks_.clear();
  return pieces;
}

}  // namespace longhaul::model
