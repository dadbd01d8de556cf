#include "apps/run_trace.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/io/atomic_file.h"

namespace longhaul::apps {
namespace {

constexpr int kRoundTrips = 16;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Rank 0 asks rank r; the answer's time is taken to lie in the middle of the round trip. Every rank
// takes part in every operation, most with nothing to say.
int64_t offset_of(comm::Communicator& comm, int r) {
  const bool asks = comm.rank() == 0, answers = comm.rank() == r;
  int64_t best = std::numeric_limits<int64_t>::max(), offset = 0;
  for (int i = 0; i < kRoundTrips; ++i) {
    const int64_t asked = now_ns();
    int64_t word = asked, time = 0;
    comm.send_recv(&word, asks ? 8 : 0, asks ? r : -1, &time, answers ? 8 : 0, answers ? 0 : -1,
                   {"clock offset"});
    word = now_ns();
    comm.send_recv(&word, answers ? 8 : 0, answers ? 0 : -1, &time, asks ? 8 : 0, asks ? r : -1,
                   {"clock offset"});
    const int64_t answered = now_ns();
    if (!asks || answered - asked >= best) continue;
    best = answered - asked;
    offset = asked + best / 2 - time;
  }
  return offset;
}

const char* track_name(TraceTrack track) {
  switch (track) {
    case TraceTrack::host:
      return "host";
    case TraceTrack::compute:
      return "compute stream";
    case TraceTrack::exchange:
      return "exchange stream";
  }
  return "";
}

nlohmann::ordered_json name_event(const char* what, size_t rank, int track,
                                  const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", rank}, {"tid", track}, {"args", {{"name", name}}}};
}

}  // namespace

int64_t clock_offset_ns(comm::Communicator& comm) {
  std::vector<int64_t> offsets(static_cast<size_t>(comm.size()), 0);
  for (int r = 1; r < comm.size(); ++r) offsets[static_cast<size_t>(r)] = offset_of(comm, r);
  comm.broadcast(offsets.data(), static_cast<int64_t>(offsets.size() * sizeof(int64_t)), 0,
                 {"clock offsets"});
  return offsets[static_cast<size_t>(comm.rank())];
}

void write_trace(comm::Communicator& comm, Trace& trace, int64_t offset_ns, const std::string& path,
                 bool force) {
  std::vector<TraceSpan> spans = trace.take();
  for (TraceSpan& s : spans) {
    s.begin_ns += offset_ns;
    s.end_ns += offset_ns;
  }
  const auto ranks = static_cast<size_t>(comm.size());
  const auto own = static_cast<int64_t>(spans.size() * sizeof(TraceSpan));
  std::vector<int64_t> bytes(ranks);
  const std::vector<int64_t> eight(ranks, sizeof(int64_t));
  comm.all_gather_v(&own, sizeof own, bytes.data(), eight, {"trace sizes"});
  // To rank 0 one after another: nobody else needs room for them all.
  const bool writes = comm.rank() == 0;
  std::vector<TraceSpan> all = writes ? spans : std::vector<TraceSpan>();
  for (int r = 1; r < comm.size(); ++r) {
    const bool sends = comm.rank() == r;
    const size_t before = all.size();
    const int64_t incoming = writes ? bytes[static_cast<size_t>(r)] : 0;
    all.resize(before + static_cast<size_t>(incoming) / sizeof(TraceSpan));
    comm.send_recv(spans.data(), sends ? own : 0, sends ? 0 : -1, all.data() + before, incoming,
                   writes ? r : -1, {"trace"});
  }
  if (!writes) return;

  int64_t first = std::numeric_limits<int64_t>::max();
  for (const TraceSpan& s : all) first = std::min(first, s.begin_ns);
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  size_t at = 0;
  for (size_t r = 0; r < ranks; ++r) {
    events.push_back(name_event("process_name", r, 0, fmt::format("rank {}", r)));
    const size_t count = static_cast<size_t>(bytes[r]) / sizeof(TraceSpan);
    for (TraceTrack t : {TraceTrack::host, TraceTrack::compute, TraceTrack::exchange})
      if (std::any_of(all.begin() + static_cast<std::ptrdiff_t>(at),
                      all.begin() + static_cast<std::ptrdiff_t>(at + count),
                      [t](const TraceSpan& s) { return s.track == t; }))
        events.push_back(name_event("thread_name", r, static_cast<int>(t), track_name(t)));
    for (size_t n = 0; n < count; ++n) {
      const TraceSpan& s = all[at++];
      nlohmann::ordered_json e = {{"ph", "X"},
                                  {"name", s.name},
                                  {"pid", r},
                                  {"tid", static_cast<int>(s.track)},
                                  {"ts", 1e-3 * static_cast<double>(s.begin_ns - first)},
                                  {"dur", 1e-3 * static_cast<double>(s.end_ns - s.begin_ns)}};
      if (s.layer >= 0) e["args"] = {{"layer", s.layer}};
      events.push_back(std::move(e));
    }
  }
  const nlohmann::ordered_json file = {{"displayTimeUnit", "ms"}, {"traceEvents", events}};
  io::write_file_atomically(path, file.dump() + "\n", force);
}

}  // namespace longhaul::apps
