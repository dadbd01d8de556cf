#include "comm/observer.h"

#include <algorithm>

namespace longhaul::comm {
namespace {

bool same_activity(const Sighting& a, const Sighting& b) {
  return a.ticks == b.ticks && a.body.state == b.body.state &&
         a.body.wait.group == b.body.wait.group && a.body.wait.sequence == b.body.wait.sequence;
}

}  // namespace

Sighting sight(const RankRecord& record) {
  return {record.read(), record.beats.load(std::memory_order_relaxed),
          record.ticks.load(std::memory_order_relaxed)};
}

void RankObserver::look(const Sighting& sighting, Clock::time_point now) {
  const double step =
      first_ ? 0.0 : std::min(std::chrono::duration<double>(now - last_).count(), longest_step_);
  const bool active = first_ || !same_activity(sighting, seen_);
  const bool alive = active || sighting.beats != seen_.beats;
  observation_.idle_seconds = active ? 0.0 : observation_.idle_seconds + step;
  observation_.silent_seconds = alive ? 0.0 : observation_.silent_seconds + step;
  observation_.body = sighting.body;
  seen_ = sighting;
  last_ = now;
  first_ = false;
}

}  // namespace longhaul::comm
