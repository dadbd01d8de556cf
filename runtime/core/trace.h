#pragma once
// What a rank did when, for a timeline (--trace): spans of named work on tracks.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace longhaul {

// Rows of the timeline: what the host thread did (or enqueued), what streams of a GPU did.
enum class TraceTrack : int32_t { host = 0, compute = 1, exchange = 2 };

struct TraceSpan {
  char name[32] = {};
  int32_t layer = -1;  // -1: outside a layer
  TraceTrack track = TraceTrack::host;
  int64_t begin_ns = 0;  // of this host's steady clock
  int64_t end_ns = 0;
};

class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  // The host begins something; whatever it did before ends here.
  void enter(const char* name, int layer);
  void span(TraceTrack track, const char* name, int layer, Clock::time_point begin,
            Clock::time_point end);
  // Ends the host's last span and hands everything out.
  std::vector<TraceSpan> take();

 private:
  void end_host_span(int64_t now);

  std::mutex mutex_;
  std::vector<TraceSpan> spans_;
  bool in_host_span_ = false;
  TraceSpan host_;
};

}  // namespace longhaul
