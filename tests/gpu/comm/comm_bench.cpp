// Times of the gather between GPUs under mpirun: every implementation, and the forms that "peer"
// could take, by which its thresholds were chosen.
//
//   gpu_comm_bench [forms]

#include <array>
#include <cstdio>
#include <cstring>

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
  PeerOptions kernel, copies, early, streams, words, kernel_words, batches;
  kernel.kernel_push_bytes = int64_t{1} << 40;
  copies.kernel_push_bytes = -1;
  copies.early_signal_bytes = int64_t{1} << 40;
  early.kernel_push_bytes = -1;
  early.early_signal_bytes = 0;
  streams.kernel_push_bytes = -1;
  streams.push_streams = std::max(world.size() - 1, 1);
  batches = copies;
  batches.few_copies = 0;
  words = copies;
  words.memory_operations = false;
  kernel_words = kernel;
  kernel_words.memory_operations = false;
  const std::array<Form, 9> forms{{{"kernel", kernel, 0, 4 * kMiB},
                                   {"kernel, kernel signals", kernel_words, 0, 256 * kKiB},
                                   {"copies, late signals", copies, 0, 64 * kMiB},
                                   {"copies, early signals", early, 0, 64 * kMiB},
                                   {"copies, in a batch", batches, 0, 64 * kMiB},
                                   {"copies, many streams", streams, 0, 64 * kMiB},
                                   {"copies, kernel signals", words, 0, 4 * kMiB},
                                   {"signals only", copies, 64 * kKiB, 64 * kKiB, true},
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

int work(MpiSession& session, bool forms) {
  const int devices = longhaul::cuda::device_count(nullptr);
  if (devices == 0) fail(ExitCode::usage, "no GPU on this host");
  longhaul::cuda::open_device(session.local_rank() % devices);
  Communicator& world = session.world();
  if (forms) {
    measure_forms(world);
    return 0;
  }
  const std::array<int64_t, 6> sizes{64 * kKiB, kMiB, 4 * kMiB, 16 * kMiB, 33 * kMiB, 256 * kMiB};
  std::vector<std::string> refused;
  for (const GatherFigure& f : measure_gathers(world, sizes, {}, &refused))
    print(world, f.name.c_str(), f);
  for (const std::string& line : refused)
    if (world.rank() == 0) std::printf("%s\n", line.c_str());
  return 0;
}

}  // namespace
}  // namespace longhaul::comm::cuda

int main(int argc, char** argv) {
  try {
    longhaul::comm::MpiSession session(&argc, &argv);
    const bool forms = argc > 1 && std::strcmp(argv[1], "forms") == 0;
    return longhaul::comm::run_guarded(session,
                                       [&] { return longhaul::comm::cuda::work(session, forms); });
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
