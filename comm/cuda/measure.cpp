#include "comm/cuda/measure.h"

#include <algorithm>
#include <chrono>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/measure_kernels.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::comm::cuda {
namespace {

using longhaul::cuda::Event;
using longhaul::cuda::Stream;

constexpr OpLabel kLabel{"measure exchange"};
// So long the host takes at most to enqueue one gather.
constexpr double kHostMicroseconds = 60;
constexpr int64_t kLargeBytes = int64_t{8} << 20;

void run_one(Gather& gather, const MeasureOptions& options, cudaStream_t stream) {
  if (options.signal_only)
    gather.start_signal_only(gather.next_parity(), stream, kLabel);
  else
    gather.start(gather.next_parity(), stream, kLabel);
  gather.finish(stream);
}

// What rank r sends in the check of a buffer.
uint64_t seed_of(int rank, int parity) {
  return 1000 + 2 * static_cast<uint64_t>(rank) + static_cast<uint64_t>(parity);
}

int64_t wrong_bytes(Communicator& comm, Gather& gather, int64_t bytes, cudaStream_t stream) {
  longhaul::cuda::Buffer counter(8, "counter of the measurement", MemoryUse::exchange);
  LH_CUDA(cudaMemset(counter.data(), 0, 8));
  for (int turn = 0; turn < 2; ++turn) {
    const int parity = gather.next_parity();
    void* buffer = gather.buffer(parity);
    LH_CUDA(cudaMemsetAsync(buffer, 0xee, static_cast<size_t>(bytes * comm.size()), stream));
    fill_pattern(buffer, bytes * comm.rank(), bytes, seed_of(comm.rank(), parity), stream);
    // The others must not send before this rank's buffer is poisoned.
    wait_stream(comm, stream, kLabel, [&] { gather.check(); });
    comm.barrier(kLabel);
    gather.start(parity, stream, kLabel);
    gather.finish(stream);
    for (int r = 0; r < comm.size(); ++r)
      count_wrong(buffer, bytes * r, bytes, seed_of(r, parity),
                  static_cast<unsigned long long*>(counter.data()), stream);
  }
  wait_stream(comm, stream, kLabel, [&] { gather.check(); });
  int64_t wrong = 0;
  LH_CUDA(cudaMemcpy(&wrong, counter.data(), 8, cudaMemcpyDeviceToHost));
  comm.all_reduce(&wrong, 1, DType::i64, ReduceOp::sum, kLabel);
  return wrong;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

}  // namespace

GatherPlan even_plan(int rank, int size, int64_t bytes_per_rank) {
  GatherPlan plan;
  for (int r = 0; r < size; ++r) {
    plan.send.emplace_back();
    plan.recv.emplace_back();
    if (r == rank) continue;
    plan.send.back().push_back({bytes_per_rank * rank, bytes_per_rank});
    plan.recv.back().push_back({bytes_per_rank * r, bytes_per_rank});
  }
  return plan;
}

GatherFigure measure_gather(Communicator& comm, Gather& gather, int64_t bytes_per_rank,
                            const MeasureOptions& options) {
  GatherFigure figure;
  figure.name = gather.name();
  figure.bytes_per_rank = bytes_per_rank;
  gather.reserve(bytes_per_rank * comm.size());
  gather.set_plan(even_plan(comm.rank(), comm.size(), bytes_per_rank));
  const Stream stream;
  const bool host_works = gather.name() == "staged";
  if (options.check) figure.wrong_bytes = wrong_bytes(comm, gather, bytes_per_rank, stream);
  const bool large = bytes_per_rank >= kLargeBytes;
  const int at_once = host_works ? (large ? 1 : 3) : (large ? 6 : 40);
  const int repeats = host_works && large ? std::min(options.repeats, 3) : options.repeats;
  std::vector<double> device, host;
  Event begin(Event::Timing::on), end(Event::Timing::on);
  for (int repeat = -1; repeat < repeats; ++repeat) {  // one to warm up
    comm.barrier(kLabel);
    // Without this the first gathers would be timed at the pace of the host.
    if (!host_works) spin(kHostMicroseconds * at_once, stream);
    begin.record(stream);
    const auto from = std::chrono::steady_clock::now();
    for (int i = 0; i < at_once; ++i) run_one(gather, options, stream);
    const auto to = std::chrono::steady_clock::now();
    end.record(stream);
    wait_device(comm, end, kLabel, [&] { gather.check(); });
    double times[2] = {1000 * milliseconds_between(begin, end) / at_once,
                       std::chrono::duration<double, std::micro>(to - from).count() / at_once};
    comm.all_reduce(times, 2, DType::f64, ReduceOp::max, kLabel);
    if (repeat < 0) continue;
    device.push_back(times[0]);
    host.push_back(times[1]);
  }
  figure.microseconds = median(device);
  figure.host_microseconds = median(host);
  figure.gigabytes_per_s =
      static_cast<double>(bytes_per_rank * (comm.size() - 1)) / figure.microseconds / 1e3;
  return figure;
}

std::vector<GatherFigure> measure_gathers(Communicator& comm,
                                          std::span<const int64_t> bytes_per_rank,
                                          const MeasureOptions& options,
                                          std::vector<std::string>* refused) {
  std::vector<GatherFigure> figures;
  for (const char* name : {"peer", "nccl", "staged"}) {
    std::unique_ptr<Gather> gather;
    try {
      gather = make_gather(comm, name, nullptr);
    } catch (const Error& e) {
      // The ranks agree on what cannot run.
      if (e.code() != ExitCode::usage) throw;
      if (refused != nullptr) refused->push_back(e.what());
      continue;
    }
    for (const int64_t bytes : bytes_per_rank)
      figures.push_back(measure_gather(comm, *gather, bytes, options));
  }
  return figures;
}

}  // namespace longhaul::comm::cuda
