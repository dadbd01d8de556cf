// longhaul bench comm on CPU ranks: the communicator's own operations.

#include <algorithm>
#include <chrono>
#include <functional>

#include "apps/bench_comm.h"

namespace longhaul::apps {
namespace {

constexpr comm::OpLabel kLabel{"bench comm"};
constexpr double kTurnSeconds = 0.05;

// What rank `from` sends to rank `to` (or to all: -1) at byte i.
uint8_t pattern(int from, int to, int64_t i) {
  return static_cast<uint8_t>(31 * from + 7 * to + 13 + i + (i >> 8));
}

void fill(std::vector<uint8_t>& v, int64_t begin, int64_t bytes, int from, int to) {
  for (int64_t i = 0; i < bytes; ++i) v[static_cast<size_t>(begin + i)] = pattern(from, to, i);
}

int64_t wrong(const std::vector<uint8_t>& v, int64_t begin, int64_t bytes, int from, int to) {
  int64_t n = 0;
  for (int64_t i = 0; i < bytes; ++i)
    n += v[static_cast<size_t>(begin + i)] != pattern(from, to, i);
  return n;
}

// Seconds of one call on the slowest rank: the median of `repeat` turns of equally many calls.
double seconds_of(comm::Communicator& comm, int repeat, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  const auto turn = [&](int calls) {
    comm.barrier(kLabel);
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / calls;
    comm.all_reduce(&seconds, 1, DType::f64, comm::ReduceOp::max, kLabel);
    return seconds;
  };
  turn(2);
  const int calls = std::clamp(static_cast<int>(kTurnSeconds / turn(2)), 1, 1000);
  std::vector<double> samples;
  for (int i = 0; i < repeat; ++i) samples.push_back(turn(calls));
  return summarise(samples).median;
}

struct Operations {
  comm::Communicator& comm;
  int repeat;
  int n = comm.size(), me = comm.rank();
  std::vector<CommFigure> figures = {};

  void add(const char* name, int64_t bytes, double received, int64_t wrong_here,
           const std::function<void()>& call) {
    comm.all_reduce(&wrong_here, 1, DType::i64, comm::ReduceOp::sum, kLabel);
    const double seconds = seconds_of(comm, repeat, call);
    figures.push_back({name, bytes, seconds * 1e6, received / seconds * 1e-9, 0, wrong_here});
  }

  void all_gather(int64_t bytes) {
    std::vector<uint8_t> send(static_cast<size_t>(bytes)), recv(static_cast<size_t>(bytes * n));
    const std::vector<int64_t> counts(static_cast<size_t>(n), bytes);
    fill(send, 0, bytes, me, -1);
    const auto call = [&] { comm.all_gather_v(send.data(), bytes, recv.data(), counts, kLabel); };
    call();
    int64_t bad = 0;
    for (int r = 0; r < n; ++r) bad += wrong(recv, bytes * r, bytes, r, -1);
    add("all_gather_v", bytes, static_cast<double>(bytes * (n - 1)), bad, call);
  }

  // `bytes` in all from each rank, an equal part to each.
  void all_to_all(int64_t bytes) {
    const int64_t part = std::max<int64_t>(bytes / n, 1);
    std::vector<uint8_t> send(static_cast<size_t>(part * n)), recv(static_cast<size_t>(part * n));
    const std::vector<int64_t> counts(static_cast<size_t>(n), part);
    for (int r = 0; r < n; ++r) fill(send, part * r, part, me, r);
    const auto call = [&] { comm.all_to_all_v(send.data(), counts, recv.data(), counts, kLabel); };
    call();
    int64_t bad = 0;
    for (int r = 0; r < n; ++r) bad += wrong(recv, part * r, part, r, me);
    add("all_to_all_v", bytes, static_cast<double>(part * (n - 1)), bad, call);
  }

  void send_recv(int64_t bytes) {
    std::vector<uint8_t> send(static_cast<size_t>(bytes)), recv(static_cast<size_t>(bytes));
    const int to = (me + 1) % n, from = (me + n - 1) % n;
    fill(send, 0, bytes, me, to);
    const auto call = [&] {
      comm.send_recv(send.data(), bytes, to, recv.data(), bytes, from, kLabel);
    };
    call();
    const int64_t bad = wrong(recv, 0, bytes, from, me);
    add("send_recv", bytes, static_cast<double>(bytes), bad, call);
  }

  void all_reduce(int64_t bytes) {
    const int64_t count = std::max<int64_t>(bytes / 4, 1);
    std::vector<int32_t> data(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      data[static_cast<size_t>(i)] = static_cast<int32_t>(i % 1000 + me);
    comm.all_reduce(data.data(), count, DType::i32, comm::ReduceOp::max, kLabel);
    int64_t bad = 0;
    for (int64_t i = 0; i < count; ++i)
      bad += data[static_cast<size_t>(i)] != static_cast<int32_t>(i % 1000 + n - 1);
    std::fill(data.begin(), data.end(), 0);  // so that repeated sums stay what they are
    add("all_reduce", bytes, 2.0 * static_cast<double>(count * 4 * (n - 1)) / n, bad,
        [&] { comm.all_reduce(data.data(), count, DType::i32, comm::ReduceOp::sum, kLabel); });
  }
};

}  // namespace

CommFigures bench_comm_cpu(const CommBench& bench, comm::Communicator& comm) {
  std::vector<int64_t> sizes = bench.bytes();
  if (sizes.empty()) sizes = {4 << 10, 64 << 10, 1 << 20, 16 << 20};
  Operations operations{comm, bench.repeat};
  for (const int64_t bytes : sizes) operations.all_gather(bytes);
  for (const int64_t bytes : sizes) operations.all_to_all(bytes);
  for (const int64_t bytes : sizes) operations.send_recv(bytes);
  for (const int64_t bytes : sizes) operations.all_reduce(bytes);
  return {"", std::move(operations.figures), {}};
}

}  // namespace longhaul::apps
