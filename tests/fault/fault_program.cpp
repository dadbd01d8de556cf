// A small job for tests/fault/fault_test.cpp: goes through the phases of a prefill with exchanges
// that overlap, so that faults (runtime/core/fault.h) can strike anywhere.
//
//   fault_program TIMEOUT [MODE]
//
// MODE: run (default); early (rank 1 ends its session before the others are done); mismatch (rank 1
// is in another operation); sizes (rank 1 sends another size); all_fail (every rank cannot read the
// same file); one_fails (rank 1 alone cannot); slow (each step takes longer than the deadline, with
// ticks); usage (every rank refuses the command line before a session); forever (until a signal);
// destructor (rank 1 lets go of a request that nobody answers).

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "comm/fatal.h"
#include "comm/mpi_session.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

constexpr int kLayers = 6;

void compute(Progress& progress, const char* what, int layer, double seconds) {
  progress.enter(what, layer);
  for (double done = 0; done < seconds; done += 0.02) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    progress.tick();
  }
}

void exchange_layer(MpiSession& session, int layer, double seconds, const std::string& mode) {
  Communicator& world = session.world();
  const auto n = static_cast<size_t>(world.size());
  const std::vector<int64_t> sizes(n, 50000);
  std::vector<char> mine(50000, static_cast<char>(world.rank())), all(50000 * n);
  if (mode == "early" && layer == 3 && world.rank() == 1) return;
  if (mode == "mismatch" && layer == 3 && world.rank() == 1) {
    world.barrier({"step"});
    return;
  }
  if (mode == "sizes" && layer == 3 && world.rank() == 1) {
    std::vector<int64_t> other(n, 50000);
    other[1] = 40000;
    world.all_gather_v(mine.data(), 40000, all.data(), other, {"allgather kv", layer});
    return;
  }
  Request kv =
      world.start_all_gather_v(mine.data(), 50000, all.data(), sizes, {"allgather kv", layer});
  compute(session.progress(), "attention", layer, seconds);
  kv.wait();
  int64_t sum = 1;
  world.all_reduce(&sum, 1, DType::i64, ReduceOp::sum, {"allreduce", layer});
  LH_CHECK(sum == world.size() && all[50000 * (n - 1)] == world.size() - 1, "sum {}", sum);
}

int work(MpiSession& session, const std::string& mode, double timeout) {
  Progress& progress = session.progress();
  Communicator& world = session.world();
  progress.enter_phase("load");
  compute(progress, "read weights", -1, 0.02);
  if (mode == "all_fail") fail(ExitCode::corrupt, "cannot read model.safetensors");
  if (mode == "one_fails" && world.rank() == 1)
    fail(ExitCode::corrupt, "cannot read model.safetensors");
  world.barrier({"loaded"});
  progress.enter_phase("prefill");
  const double seconds = mode == "slow" && world.rank() == 1 ? timeout * 0.6 : 0.02;
  for (int layer = 0; layer < (mode == "forever" ? 1 << 30 : kLayers); ++layer) {
    if (mode == "early" && layer == 3 && world.rank() == 1) return 0;
    if (mode == "destructor" && layer == 3 && world.rank() == 1) {
      int64_t one = 1;
      Request lost = world.start_all_reduce(&one, 1, DType::i64, ReduceOp::sum, {"lost", layer});
      return 0;
    }
    exchange_layer(session, layer, seconds, mode);
  }
  progress.enter_phase("dump");
  compute(progress, "write", -1, 0.02);
  world.barrier({"dumped"});
  return 0;
}

int run(int argc, char** argv) {
  const double timeout = argc > 1 ? std::atof(argv[1]) : 60;
  const std::string mode = argc > 2 ? argv[2] : "run";
  if (mode == "usage") fail(ExitCode::usage, "unknown option --tiemout");
  SessionOptions options;
  options.timeout_seconds = timeout;
  MpiSession session(&argc, &argv, options);
  return run_guarded(session, [&] { return work(session, mode, timeout); });
}

}  // namespace
}  // namespace longhaul::comm

int main(int argc, char** argv) {
  try {
    return longhaul::comm::run(argc, argv);
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
