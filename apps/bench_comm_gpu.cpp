// longhaul bench comm on GPUs: every implementation of the gather that attention exchanges KV by.

#include "apps/bench_comm.h"
#if LONGHAUL_HAS_CUDA
#include "comm/cuda/measure.h"
#include "runtime/core/cuda/device.h"
#endif

namespace longhaul::apps {

#if LONGHAUL_HAS_CUDA
CommFigures bench_comm_gpu(const CommBench& bench, comm::MpiSession& session) {
  comm::Communicator& world = session.world();
  CommFigures result;
  result.device = cuda::current_device().name;
  std::vector<int64_t> sizes = bench.bytes();
  if (sizes.empty())
    for (int64_t mib : {0, 1, 4, 16, 33, 64, 256})
      sizes.push_back(mib == 0 ? int64_t{64} << 10 : mib << 20);
  const std::vector<std::string> names =
      bench.exchange.empty() ? std::vector<std::string>{"peer", "nccl", "staged"} : bench.exchange;
  comm::cuda::MeasureOptions options;
  options.repeats = bench.repeat;
  for (const std::string& name : names) {
    std::unique_ptr<comm::cuda::Gather> gather;
    try {
      gather = comm::cuda::make_gather(world, name, nullptr);
    } catch (const Error& e) {
      // The ranks agree on what cannot run; one that was asked for by name is an error.
      if (e.code() != ExitCode::usage || !bench.exchange.empty()) throw;
      result.refused.push_back(e.what());
      continue;
    }
    for (const int64_t bytes : sizes) {
      const comm::cuda::GatherFigure f = comm::cuda::measure_gather(world, *gather, bytes, options);
      result.figures.push_back(
          {f.name, bytes, f.microseconds, f.gigabytes_per_s, f.host_microseconds, f.wrong_bytes});
    }
  }
  return result;
}
#else
CommFigures bench_comm_gpu(const CommBench&, comm::MpiSession&) {
  fail(ExitCode::usage, "GPUs are not built into this longhaul; build it where nvcc is");
}
#endif

}  // namespace longhaul::apps
