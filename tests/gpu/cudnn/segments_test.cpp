// How items are cut into what cuDNN computes: pure host code, needs no device.

#include "attention/backends/cudnn/segments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "runtime/core/check.h"

namespace longhaul::attention::cudnn {
namespace {

TEST(CudnnSegments, EveryQueryOnceWithItsKeys) {
  std::mt19937_64 engine(3);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  for (int round = 0; round < 20000; ++round) {
    cuda::Item item;
    item.q_row = between(0, 5);
    item.q_length = between(0, 12);
    item.kv_row = between(0, 5);
    item.kv_length = between(0, 12);
    item.causal_offset = between(0, 5) == 0 ? cuda::kNoMask : between(-15, 15);
    std::map<int64_t, int64_t> seen;
    for (const Segment& s : make_segments({&item, 1})) {
      ASSERT_GT(s.q_length, 0);
      ASSERT_EQ(s.kv_row, item.kv_row);
      ASSERT_GE(s.kv_length, s.mask == Segment::Mask::causal ? s.q_length
                             : s.mask == Segment::Mask::full ? 1
                                                             : 0);
      for (int64_t i = 0; i < s.q_length; ++i) {
        const int64_t keys = s.mask == Segment::Mask::unseen ? 0
                             : s.mask == Segment::Mask::full ? s.kv_length
                                                             : s.kv_length - s.q_length + i + 1;
        ASSERT_TRUE(seen.emplace(s.q_row + i, keys).second);
      }
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()), item.q_length);
    for (int64_t i = 0; i < item.q_length; ++i) {
      ASSERT_EQ(seen.at(item.q_row + i),
                std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length));
    }
  }
}

TEST(CudnnSegments, UsualItemsStayWhole) {
  const cuda::Item causal{7, 100, 9, 300, 200}, full{7, 100, 9, 300, cuda::kNoMask};
  ASSERT_EQ(make_segments({&causal, 1}).size(), 1u);
  EXPECT_EQ(make_segments({&causal, 1})[0].mask, Segment::Mask::causal);
  ASSERT_EQ(make_segments({&full, 1}).size(), 1u);
  EXPECT_EQ(make_segments({&full, 1})[0].mask, Segment::Mask::full);
}

TEST(CudnnSegments, RefusesPagesAndWhatDoesNotFit) {
  const cuda::Item pages{0, 1, 0, 1, 0, 0}, far{int64_t{1} << 30, 1, 0, 1, 0};
  EXPECT_THROW(make_segments({&pages, 1}), Error);
  EXPECT_THROW(make_segments({&far, 1}), Error);
}

}  // namespace
}  // namespace longhaul::attention::cudnn
