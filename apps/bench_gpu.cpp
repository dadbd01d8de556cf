#if LONGHAUL_HAS_CUDA
#include "apps/bench_gpu.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "apps/bench.h"
#include "comm/cuda/device_wait.h"
#include "comm/cuda/measure_kernels.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::apps {
namespace {

using cuda::Event;

constexpr comm::OpLabel kLabel{"bench"};
constexpr double kTurnMilliseconds = 150;
// Events closer to each other than this would slow down what they measure.
constexpr double kEventMilliseconds = 0.25;
constexpr auto kRest = std::chrono::milliseconds(300);
// The device idles so long before what is timed, so that the host is ahead of it.
constexpr double kHeadStartMicroseconds = 60;
constexpr double kMostHeadStartMicroseconds = 20000;
// Calls shorter than the host takes to enqueue them: no more a turn than the device's queue and the
// head start cover, else the host's pace would be measured.
constexpr double kShortMilliseconds = 0.12;
constexpr int kMostShortCalls = 200;

double worst(comm::Communicator& comm, double value) {
  comm.all_reduce(&value, 1, DType::f64, comm::ReduceOp::max, kLabel);
  return value;
}

}  // namespace

std::vector<Pace> parse_pace(const std::string& text) {
  if (text == "both") return {Pace::rested, Pace::full};
  return {text == "rested" ? Pace::rested : Pace::full};
}

const char* pace_name(Pace pace) {
  return pace == Pace::full ? "full queue" : "rested";
}

double GpuClock::single(const std::function<void()>& call) const {
  Event begin(Event::Timing::on), end(Event::Timing::on);
  comm_.barrier(kLabel);
  comm::cuda::spin(kHeadStartMicroseconds, stream_);
  begin.record(stream_);
  call();
  end.record(stream_);
  comm::cuda::wait_device(comm_, end, kLabel, poll_);
  return milliseconds_between(begin, end);
}

void GpuClock::full_turn(double estimate, const std::function<void()>& call,
                         std::vector<double>& samples) const {
  const int group = static_cast<int>(std::ceil(kEventMilliseconds / estimate));
  const int most = estimate < kShortMilliseconds ? kMostShortCalls / group : 1000;
  const int groups =
      std::clamp(static_cast<int>(kTurnMilliseconds / (estimate * group)), 3, std::max(most, 3));
  std::vector<Event> marks;
  for (int i = 0; i <= groups; ++i) marks.emplace_back(Event::Timing::on);
  comm_.barrier(kLabel);
  comm::cuda::spin(std::min(kHeadStartMicroseconds * group * groups, kMostHeadStartMicroseconds),
                   stream_);
  marks[0].record(stream_);
  for (int i = 1; i <= groups; ++i) {
    for (int j = 0; j < group; ++j) call();
    marks[static_cast<size_t>(i)].record(stream_);
  }
  for (const Event& mark : marks) comm::cuda::wait_device(comm_, mark, kLabel, poll_);
  for (int i = groups / 2; i < groups; ++i)
    samples.push_back(
        milliseconds_between(marks[static_cast<size_t>(i)], marks[static_cast<size_t>(i) + 1]) /
        group);
}

GpuTiming GpuClock::time(Pace pace, const std::function<void()>& call) const {
  single(call);  // loads kernels, touches memory
  // The faster of two: the first of several ranks may have waited for a slow one.
  const double first = single(call);
  const double estimate = std::max(1e-3, worst(comm_, std::min(first, single(call))));
  std::vector<double> samples;
  for (int turn = 0; turn < turns_; ++turn) {
    if (pace == Pace::full) {
      full_turn(estimate, call, samples);
      continue;
    }
    std::this_thread::sleep_for(kRest);
    for (int i = 0; i < (estimate < 5 ? 9 : 3); ++i) samples.push_back(single(call));
  }
  const Timing t = summarise(std::move(samples));
  return {worst(comm_, t.median), worst(comm_, t.min)};
}

std::vector<GpuTiming> GpuClock::time_parts(Pace pace, int parts,
                                            const std::function<void(const Mark&)>& call) const {
  const double estimate = std::max(1e-3, worst(comm_, single([&] { call([] {}); })));
  const bool full = pace == Pace::full;
  const int calls = full ? std::clamp(static_cast<int>(kTurnMilliseconds / estimate), 3, 300) : 1;
  const auto per_call = static_cast<size_t>(parts) + 1;
  std::vector<Event> marks;
  for (size_t i = 0; i < per_call * static_cast<size_t>(calls); ++i)
    marks.emplace_back(Event::Timing::on);
  std::vector<std::vector<double>> samples(static_cast<size_t>(parts));
  for (int turn = 0; turn < (full ? turns_ : 9); ++turn) {
    if (!full && turn % 3 == 0) std::this_thread::sleep_for(kRest);
    size_t next = 0;
    comm_.barrier(kLabel);
    comm::cuda::spin(std::min(2 * kHeadStartMicroseconds * calls, kMostHeadStartMicroseconds),
                     stream_);
    for (int i = 0; i < calls; ++i) {
      marks[next++].record(stream_);
      call([&] { marks[next++].record(stream_); });
      LH_CHECK(next == per_call * static_cast<size_t>(i + 1), "{} marks of {} parts", next, parts);
    }
    for (const Event& mark : marks) comm::cuda::wait_device(comm_, mark, kLabel, poll_);
    for (auto i = static_cast<size_t>(calls / 2); i < static_cast<size_t>(calls); ++i)
      for (size_t part = 0; part < samples.size(); ++part)
        samples[part].push_back(
            milliseconds_between(marks[i * per_call + part], marks[i * per_call + part + 1]));
  }
  std::vector<GpuTiming> result;
  for (std::vector<double>& part : samples) {
    const Timing t = summarise(std::move(part));
    result.push_back({worst(comm_, t.median), worst(comm_, t.min)});
  }
  return result;
}

}  // namespace longhaul::apps
#endif
