// The sm_90a attention kernel against a plain reference, over random ragged batches and the
// corners. LONGHAUL_GPU_CASES (default 200) sets the random cases per head dim,
// LONGHAUL_GPU_REPEATS (default 50) the repeats that must agree bit for bit.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/gpu/attention_random.h"

namespace longhaul::test {
namespace {

void run_random(int head_dim, int head_dim_v) {
  const int cases = from_environment("LONGHAUL_GPU_CASES", 200);
  double error2 = 0, naive2 = 0, worst_lse = 0;
  int cut = 0, shared = 0;
  for (int i = 0; i < cases && !testing::Test::HasFailure(); ++i) {
    const Problem p = random_problem(head_dim, head_dim_v, static_cast<uint64_t>(i + 1));
    Device device(p);
    device.run();
    LH_CUDA(cudaDeviceSynchronize());
    const Difference d = device.compare();
    expect_close(p, d, describe(p));
    EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    if (p.out_type == OutType::bf16 && p.q_scale == 1.f) {
      error2 += d.sum_error2;
      naive2 += d.sum_naive2;
    }
    cut += device.plan().num_splits > 1;
    shared += device.plan().heads_per_tile > 1;
    worst_lse = std::max(worst_lse, d.max_lse_error / std::max(1.f, p.q_scale));
  }
  const double ratio = std::sqrt(error2 / naive2);
  std::printf(
      "D %d: %d cases (%d with cut keys, %d with shared tiles), rms error %.3f x plain bf16, worst "
      "lse error %.1e\n",
      head_dim, cases, cut, shared, ratio, worst_lse);
  // Scores of usual size and bf16 outputs: over millions of elements ours is as good as plain.
  EXPECT_LT(ratio, 1.05);
}

using Attention = HopperTest;

TEST_F(Attention, RandomRaggedD128) {
  run_random(128, 128);
}
TEST_F(Attention, RandomRaggedD64) {
  run_random(64, 64);
}
TEST_F(Attention, RandomRaggedD256) {
  run_random(256, 256);
}
TEST_F(Attention, RandomRaggedD192) {
  run_random(192, 128);
}

TEST_F(Attention, Corners) {
  const std::vector<Item> items = {
      {0, 1, 0, 1, 0},         // one query, one key
      {3, 5, 2, 0, -5},        // no keys: out 0, lse -inf
      {0, 300, 0, 100, -200},  // more queries than keys: the first 200 see nothing
      {0, 256, 0, 256, 0},     // whole tiles
      {0, 129, 0, 129, 0},     // one row over
      {0, 64, 0, 1000, 936},   // one warpgroup's worth of rows
      {1, 100, 1, 555, gpu_attention::kNoMask},
      {0, 200, 0, 300, -1000},  // every key out of sight
      {0, 200, 0, 300, 50},     // the last queries do not see the last keys
      {0, 200, 0, 120, 50},     // queries past the last key see all of them
  };
  for (int head_dim : {64, 128, 192, 256}) {
    for (const Item& item : items) {
      const Problem p = one_item(item, 6, 2, head_dim);
      Device device(p);
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      expect_close(p, device.compare(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

// The first key, which the kernel reads last, outweighs all others by e^27 and more for half of the
// rows: past what the quick form of the softmax can take, so its way out is used.
TEST_F(Attention, FirstKeyOutweighsAll) {
  for (int head_dim : {64, 128, 192, 256}) {
    for (float size : {10.f, 40.f, 1000.f}) {
      const Problem p = one_item({5, 700, 3, 2100, 1400}, 8, 2, head_dim);
      Device device(p);
      device.set_key(3, size);
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      // Scores up to `size` times a few: their float32 rounding is what lse can be off by.
      expect_close(p, device.compare(), describe(p) + " size " + std::to_string(size),
                   std::max(1.f, size / 10));
    }
  }
}

TEST_F(Attention, NoItemsIsNoWork) {
  Problem p = one_item({0, 0, 0, 4, 0}, 2, 1);
  Device device(p);
  device.run();
  LH_CUDA(cudaDeviceSynchronize());
  EXPECT_EQ(device.stray_writes(), 0);
}

TEST_F(Attention, RepeatsBitForBit) {
  const int repeats = from_environment("LONGHAUL_GPU_REPEATS", 50);
  for (int head_dim : {64, 128, 256}) {
    Problem p = one_item({0, 1500, 0, 2600, 1100}, 16, 2, head_dim);
    Device device(p);
    device.run();
    LH_CUDA(cudaDeviceSynchronize());
    const auto out = device.out_bytes();
    const auto lse = device.lse();
    for (int i = 0; i < repeats; ++i) {
      device.poison();
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      ASSERT_EQ(out, device.out_bytes()) << "D " << head_dim << " repeat " << i;
      const auto again = device.lse();
      ASSERT_EQ(std::memcmp(lse.data(), again.data(), lse.size() * 4), 0);
    }
  }
}

TEST_F(Attention, OffsetsPast2To31Elements) {
  // 600,000 rows x 32 heads x 128 are 2.46e9 elements; the item sits at the end of q and of k, v.
  const Problem p = one_item({599'000, 700, 599'100, 800, 100}, 32, 32);
  Device device(p);
  device.run();
  LH_CUDA(cudaDeviceSynchronize());
  expect_close(p, device.compare(), describe(p));
}

}  // namespace
}  // namespace longhaul::test
