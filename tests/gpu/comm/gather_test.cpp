// The gather between GPUs, by every implementation that can run on this host. Ranks share GPUs
// where there are fewer.

#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/cuda/measure.h"
#include "comm/cuda/peer_gather.h"
#include "comm/cuda/staged_gather.h"
#include "runtime/core/cuda/device.h"
#include "tests/gpu/comm/gather_cases.h"
#include "tests/support/mpi_main.h"

namespace longhaul::comm::cuda {
namespace {

using cases::GatherCases;

class GpuGather : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    const int devices = longhaul::cuda::device_count(&why);
    if (devices == 0) GTEST_SKIP() << why;
    longhaul::cuda::open_device(testing_support::session().local_rank() % devices);
    one_rank_per_gpu_ = testing_support::session().local_size() <= devices;
  }
  static Communicator& world() { return testing_support::session().world(); }
  // LONGHAUL_GPU_CASES: plans of each test.
  static int plans(int usual) {
    const char* text = std::getenv("LONGHAUL_GPU_CASES");
    return text != nullptr ? std::atoi(text) : usual;
  }
  void play_peer(uint64_t seed, PeerOptions options, int usual = 12) {
    options.flags_always = true;  // the kernels that wait are small
    std::string why;
    auto gather = PeerGather::make(world(), options, &why);
    if (!gather) GTEST_SKIP() << why;
    GatherCases cases;
    cases.seed = seed;
    cases.plans = plans(usual);
    random_gathers(world(), *gather, cases);
  }
  bool one_rank_per_gpu_ = false;
};

TEST_F(GpuGather, PeerAsItComes) {
  play_peer(1, {});
}
TEST_F(GpuGather, PeerByCopiesAlone) {
  PeerOptions options;
  options.kernel_push_bytes = -1;
  play_peer(2, options);
}
TEST_F(GpuGather, PeerByCopiesWithEarlySignals) {
  PeerOptions options;
  options.kernel_push_bytes = -1;
  options.early_signal_bytes = 0;
  play_peer(3, options);
}
TEST_F(GpuGather, PeerByCopiesEarlyAndLateInTurn) {
  PeerOptions options;
  options.kernel_push_bytes = -1;
  options.early_signal_bytes = 60000;
  options.copy_bytes = 5000;
  play_peer(4, options);
}
TEST_F(GpuGather, PeerByKernelsAlone) {
  PeerOptions options;
  options.kernel_push_bytes = int64_t{1} << 40;
  options.memory_operations = false;
  options.signal_only_by_kernel = true;
  play_peer(5, options);
}
TEST_F(GpuGather, PeerByKernelsAndCopiesInTurn) {
  PeerOptions options;
  options.kernel_push_bytes = 60000;
  play_peer(6, options);
}
TEST_F(GpuGather, PeerEpochsWrap) {
  for (const uint32_t first : {0xfffffff0u, 0x7ffffff0u}) {
    PeerOptions options;
    options.first_epoch = first;
    options.kernel_push_bytes = 60000;
    play_peer(7, options, 6);
  }
}
TEST_F(GpuGather, Staged) {
  StagedGather gather(world());
  GatherCases cases;
  cases.seed = 8;
  cases.plans = plans(12);
  random_gathers(world(), gather, cases);
}
TEST_F(GpuGather, Nccl) {
  if (!one_rank_per_gpu_) GTEST_SKIP() << "ranks share GPUs";
  auto gather = make_gather(world(), "nccl", nullptr);
  GatherCases cases;
  cases.seed = 9;
  cases.plans = plans(12);
  random_gathers(world(), *gather, cases);
}

TEST_F(GpuGather, MoreThan2To31Bytes) {
  if (world().size() != 2) GTEST_SKIP() << "for two ranks";
  const int64_t bytes = (int64_t{1} << 31) + 12345 * 16;
  for (const char* name : {"peer", "nccl", "staged"}) {
    if (name == std::string("nccl") && !one_rank_per_gpu_) continue;
    auto gather = make_gather(world(), name, nullptr);
    cases::one_segment(world(), *gather, 4096, bytes);
    cases::one_segment(world(), *gather, bytes - 100, 1000);
  }
}

TEST_F(GpuGather, AutoChoosesAndSaysWhy) {
  std::string why;
  auto gather = make_gather(world(), "auto", &why);
  ASSERT_NE(gather, nullptr);
  EXPECT_NE(why.find(gather->name()), std::string::npos) << why;
  if (world().rank() == 0) std::fprintf(stderr, "%s\n", why.c_str());
  GatherCases cases;
  cases.seed = 10;
  cases.plans = 3;
  random_gathers(world(), *gather, cases);
}

TEST_F(GpuGather, RefusesUnknownNames) {
  EXPECT_THROW(make_gather(world(), "pigeon", nullptr), Error);
}

TEST_F(GpuGather, FiguresAreOfRightBytes) {
  const std::array<int64_t, 2> sizes{10000, int64_t{1} << 20};
  MeasureOptions options;
  options.repeats = 1;
  std::vector<std::string> refused;
  const auto figures = measure_gathers(world(), sizes, options, &refused);
  EXPECT_GE(figures.size(), 2u);
  for (const GatherFigure& f : figures) EXPECT_EQ(f.wrong_bytes, 0) << f.name;
}

TEST_F(GpuGather, TrafficIsCounted) {
  StagedGather gather(world());
  gather.reserve(4000);
  gather.set_plan(even_plan(world().rank(), world().size(), 1000));
  const longhaul::cuda::Stream stream;
  gather.start(0, stream, {"counted"});
  gather.finish(stream);
  EXPECT_EQ(gather.traffic().sent_bytes, 1000 * (world().size() - 1));
  EXPECT_EQ(gather.traffic().received_bytes, 1000 * (world().size() - 1));
}

}  // namespace
}  // namespace longhaul::comm::cuda
