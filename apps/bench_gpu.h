#pragma once
// How GPU benchmarks take the time. A board at its power limit lowers its clock, so a figure means
// little without the pace it was measured at.

#include <cuda_runtime.h>

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace longhaul::apps {

// full: calls back to back for about 150 ms a turn, the second half counted, as in a long prefill.
// rested: a few single calls, each waited for, after 0.3 s of rest, as kernels are often published.
enum class Pace { full, rested };
std::vector<Pace> parse_pace(const std::string& text);  // "full", "rested" or "both"
const char* pace_name(Pace pace);

// Milliseconds of one call by device events, without the host's time to enqueue it.
struct GpuTiming {
  double median = 0, min = 0;
};

class GpuClock {
 public:
  // Collective over comm; every rank gets the slowest rank's times. `turns` 0: 3. poll() is called
  // while the host waits (Gather::check).
  GpuClock(comm::Communicator& comm, cudaStream_t stream, int turns,
           std::function<void()> poll = {})
      : comm_(comm), stream_(stream), turns_(turns > 0 ? turns : 3), poll_(std::move(poll)) {}

  // call() enqueues one call on the stream. Every rank calls it equally often.
  GpuTiming time(Pace pace, const std::function<void()>& call) const;

  // The parts of a call: call(mark) enqueues one and calls mark() behind each part, equally often
  // each time. -> the parts in order.
  using Mark = std::function<void()>;
  std::vector<GpuTiming> time_parts(Pace pace, int parts,
                                    const std::function<void(const Mark&)>& call) const;

 private:
  double single(const std::function<void()>& call) const;
  void full_turn(double estimate, const std::function<void()>& call,
                 std::vector<double>& samples) const;

  comm::Communicator& comm_;
  cudaStream_t stream_;
  int turns_;
  std::function<void()> poll_;
};

}  // namespace longhaul::apps
