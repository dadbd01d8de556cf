// A small job for tests/gpu/comm/fault_test.cpp: layers of gathers between GPUs, waited for as a
// prefill does, so that faults (runtime/core/fault.h) can strike in them.
//
//   gpu_fault_program TIMEOUT IMPLEMENTATION

#include <cstdlib>
#include <string>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/measure.h"
#include "comm/cuda/measure_kernels.h"
#include "comm/mpi_session.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::comm::cuda {
namespace {

constexpr int kLayers = 8;

int work(MpiSession& session, const std::string& implementation) {
  longhaul::cuda::open_device(session.local_rank() % longhaul::cuda::device_count(nullptr));
  session.progress().enter_phase("load");
  Communicator& world = session.world();
  const std::unique_ptr<Gather> gather = make_gather(world, implementation, nullptr);
  constexpr int64_t kBytes = int64_t{2} << 20;
  gather->reserve(kBytes * world.size());
  gather->set_plan(even_plan(world.rank(), world.size(), kBytes));
  const longhaul::cuda::Stream stream;
  session.progress().enter_phase("prefill");
  for (int round = 0; round < 3; ++round) {
    std::vector<longhaul::cuda::Event> done(kLayers);
    for (int layer = 0; layer < kLayers; ++layer) {
      session.progress().enter("attention", layer);
      spin(100, stream);
      gather->start(gather->next_parity(), stream, {"allgather kv", layer});
      gather->finish(stream);
      done[static_cast<size_t>(layer)].record(stream);
    }
    for (int layer = 0; layer < kLayers; ++layer)
      wait_device(world, done[static_cast<size_t>(layer)], {"wait for GPU", layer},
                  [&] { gather->check(); });
  }
  return 0;
}

int run(int argc, char** argv) {
  if (argc != 3) fail(ExitCode::usage, "usage: gpu_fault_program TIMEOUT IMPLEMENTATION");
  SessionOptions options;
  options.timeout_seconds = std::atof(argv[1]);
  const std::string implementation = argv[2];
  MpiSession session(&argc, &argv, options);
  return run_guarded(session, [&] { return work(session, implementation); });
}

}  // namespace
}  // namespace longhaul::comm::cuda

int main(int argc, char** argv) {
  try {
    return longhaul::comm::cuda::run(argc, argv);
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
