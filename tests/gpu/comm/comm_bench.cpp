// Times of the gather between GPUs under mpirun: every implementation, and the forms that "peer"
// could take, by which its thresholds were chosen.
//
//   gpu_comm_bench [forms | NAME ...]

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "comm/cuda/measure.h"
#include "comm/cuda/peer_gather.h"
#include "comm/mpi_session.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::comm::cuda {
namespace {

constexpr int64_t kKiB = 1024, kMiB = kKiB * kKiB;

void print(Communicator& world, const char* form, const GatherFigure& f) {
  if (world.rank() != 0) return;
  std::printf("%-22s %8lld KiB %10.1f us %7.1f GB/s  host %6.1f us  wrong %lld\n", form,
              static_cast<long long>(f.bytes_per_rank / kKiB), f.microseconds, f.gigabytes_per_s,
              f.host_microseconds, static_cast<long long>(f.wrong_bytes));
  std::fflush(stdout);
}

void measure_forms(Communicator& world) {
  struct Form {
    const char* name;
    PeerOptions options;
    int64_t least, most;
    bool signal_only = false;
  };
  PeerOptions kernel, late, early, single, words, pieces, told;
  kernel.kernel_push_bytes = int64_t{1} << 40;
  late.kernel_push_bytes = -1;
  late.early_signal_bytes = int64_t{1} << 40;
  early.kernel_push_bytes = -1;
  early.early_signal_bytes = 0;
  single = late;
  single.few_copies = 1000;
  pieces = late;
  pieces.copy_bytes = 8 * kMiB;
  words = late;
  words.memory_operations = false;
  told = late;
  told.signal_only_by_kernel = true;
  const std::array<Form, 9> forms{{{"kernel", kernel, 0, 4 * kMiB},
                                   {"copies, late signals", late, 0, 64 * kMiB},
                                   {"copies, early signals", early, kMiB, 64 * kMiB},
                                   {"copies, a call each", single, 0, 64 * kMiB},
                                   {"copies, of 8 MiB", pieces, 16 * kMiB, 64 * kMiB},
                                   {"copies, kernel signals", words, 0, kMiB},
                                   {"signals only", late, 64 * kKiB, 64 * kKiB, true},
                                   {"kernel writes signals", told, 64 * kKiB, 64 * kKiB, true},
                                   {"kernel signals only", words, 64 * kKiB, 64 * kKiB, true}}};
  for (const Form& form : forms) {
    auto gather = PeerGather::make(world, form.options, nullptr);
    if (!gather) return;
    for (const int64_t bytes : {4 * kKiB, 64 * kKiB, 256 * kKiB, 1 * kMiB, 4 * kMiB, 33 * kMiB}) {
      if (bytes < form.least || bytes > form.most) continue;
      MeasureOptions options;
      options.signal_only = form.signal_only;
      print(world, form.name, measure_gather(world, *gather, bytes, options));
    }
  }
}

int work(MpiSession& session, std::vector<std::string> names) {
  const int devices = longhaul::cuda::device_count(nullptr);
  if (devices == 0) fail(ExitCode::usage, "no GPU on this host");
  longhaul::cuda::open_device(session.local_rank() % devices);
  Communicator& world = session.world();
  if (names.size() == 1 && names[0] == "forms") {
    measure_forms(world);
    return 0;
  }
  if (names.empty()) names = {"peer", "nccl", "staged"};
  for (const std::string& name : names) {
    std::unique_ptr<Gather> gather;
    try {
      gather = make_gather(world, name, nullptr);
    } catch (const Error& e) {
      if (e.code() != ExitCode::usage) throw;  // on all ranks alike
      if (world.rank() == 0) std::printf("%s\n", e.what());
      continue;
    }
    for (const int64_t bytes : {64 * kKiB, kMiB, 4 * kMiB, 16 * kMiB, 33 * kMiB, 256 * kMiB})
      print(world, name.c_str(), measure_gather(world, *gather, bytes));
  }
  return 0;
}

}  // namespace
}  // namespace longhaul::comm::cuda

int main(int argc, char** argv) {
  try {
    longhaul::comm::MpiSession session(&argc, &argv);
    const std::vector<std::string> names(argv + 1, argv + argc);
    return longhaul::comm::run_guarded(session,
                                       [&] { return longhaul::comm::cuda::work(session, names); });
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
