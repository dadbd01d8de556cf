#include "runtime/model/schedule.h"

#include <gtest/gtest.h>

#include <random>

namespace longhaul::model {
namespace {

using layout::SequenceExtent;

TEST(Schedule, WholeBatchInOneStep) {
  const std::vector<int64_t> lengths = {3, 1, 7};
  EXPECT_EQ(prefill_schedule(lengths, 0),
            (std::vector<std::vector<SequenceExtent>>{{{0, 3}, {0, 1}, {0, 7}}}));
}

TEST(Schedule, ChunksFillSequenceAfterSequence) {
  const std::vector<int64_t> lengths = {3, 1, 7};
  EXPECT_EQ(prefill_schedule(lengths, 5),
            (std::vector<std::vector<SequenceExtent>>{
                {{0, 3}, {0, 1}, {0, 1}}, {{3, 0}, {1, 0}, {1, 5}}, {{3, 0}, {1, 0}, {6, 1}}}));
}

TEST(Schedule, EveryTokenOnceAndNoStepTooLarge) {
  std::mt19937 rng(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> lengths(1 + rng() % 8), done(lengths.size(), 0);
    for (int64_t& l : lengths) l = 1 + static_cast<int64_t>(rng() % 40);
    const auto chunk = static_cast<int64_t>(rng() % 50);
    for (const auto& step : prefill_schedule(lengths, chunk)) {
      int64_t taken = 0;
      for (size_t s = 0; s < lengths.size(); ++s) {
        ASSERT_EQ(step[s].prefix, done[s]);
        done[s] += step[s].extend;
        taken += step[s].extend;
      }
      ASSERT_GE(taken, 1);
      if (chunk > 0) {
        ASSERT_LE(taken, chunk);
      }
    }
    ASSERT_EQ(done, lengths);
  }
}

}  // namespace
}  // namespace longhaul::model
