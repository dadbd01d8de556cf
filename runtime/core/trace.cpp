#include "runtime/core/trace.h"

#include <cstring>
#include <utility>

namespace longhaul {
namespace {

int64_t nanoseconds(Trace::Clock::time_point t) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count();
}

TraceSpan make_span(TraceTrack track, const char* name, int layer, int64_t begin, int64_t end) {
  TraceSpan s;
  std::strncpy(s.name, name, sizeof s.name - 1);
  s.layer = layer;
  s.track = track;
  s.begin_ns = begin;
  s.end_ns = end;
  return s;
}

}  // namespace

void Trace::end_host_span(int64_t now) {
  if (!in_host_span_) return;
  host_.end_ns = now;
  spans_.push_back(host_);
  in_host_span_ = false;
}

void Trace::enter(const char* name, int layer) {
  const int64_t now = nanoseconds(Clock::now());
  const std::lock_guard lock(mutex_);
  end_host_span(now);
  host_ = make_span(TraceTrack::host, name, layer, now, now);
  in_host_span_ = true;
}

void Trace::span(TraceTrack track, const char* name, int layer, Clock::time_point begin,
                 Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  spans_.push_back(make_span(track, name, layer, nanoseconds(begin), nanoseconds(end)));
}

std::vector<TraceSpan> Trace::take() {
  const std::lock_guard lock(mutex_);
  end_host_span(nanoseconds(Clock::now()));
  return std::exchange(spans_, {});
}

}  // namespace longhaul
