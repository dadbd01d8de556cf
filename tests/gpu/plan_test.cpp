// The work table of the sm_90a attention kernel: pure host code, needs no device.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "attention/backends/cuda/attention_sm90.h"
#include "runtime/core/check.h"

namespace longhaul::attention::sm90 {
namespace {

constexpr Shape kShape{128, 128, 8, 2};

TEST(Plan, EveryQueryOnceWithItsKeys) {
  std::mt19937_64 engine(1);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  for (int round = 0; round < 500; ++round) {
    const Shape shape = round % 2 == 0 ? kShape : Shape{64, 64, 4, 4};
    std::vector<Item> items;
    int64_t row = 0;
    for (int64_t n = between(1, 20); n > 0; --n) {
      Item item;
      item.q_row = row += between(0, 3);
      item.q_length = between(0, 700);
      item.kv_row = between(0, 1000);
      item.kv_length = between(0, 1500);
      item.causal_offset = between(0, 3) == 0 ? kNoMask : between(-800, 1500);
      row += item.q_length;
      items.push_back(item);
    }
    // What each query of each tile sees, against the definition in the header.
    std::map<int64_t, std::pair<int64_t, int64_t>> seen;  // q row -> kv row, keys
    int64_t last_end = kNoMask;
    for (const Tile& tile : plan_tiles(shape, items)) {
      ASSERT_GE(tile.q_count, 1);
      ASSERT_LE(tile.q_count, queries_per_tile(shape));
      ASSERT_LE(tile.kv_end, last_end) << "longest first";
      last_end = tile.kv_end;
      int64_t most = 0;
      for (int64_t i = 0; i < tile.q_count; ++i) {
        const int64_t keys =
            std::clamp(std::min<int64_t>(tile.diagonal + i + 1, tile.kv_end), int64_t{0}, kNoMask);
        most = std::max(most, keys);
        ASSERT_TRUE(seen.emplace(tile.q_row + i, std::pair{int64_t{tile.kv_row}, keys}).second);
      }
      ASSERT_EQ(most, tile.kv_end) << "the kernel may clear values past kv_end";
    }
    size_t queries = 0;
    for (const Item& item : items) {
      queries += static_cast<size_t>(item.q_length);
      for (int64_t i = 0; i < item.q_length; ++i) {
        const auto found = seen.find(item.q_row + i);
        ASSERT_NE(found, seen.end());
        ASSERT_EQ(found->second.first, item.kv_row);
        ASSERT_EQ(found->second.second,
                  std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length));
      }
    }
    ASSERT_EQ(seen.size(), queries);
  }
}

TEST(Plan, RefusesWhatDoesNotFitCoordinates) {
  const Item far{int64_t{1} << 30, 1, 0, 1, 0};
  EXPECT_THROW(plan_tiles(kShape, {&far, 1}), Error);
  const Item negative{-1, 1, 0, 1, 0};
  EXPECT_THROW(plan_tiles(kShape, {&negative, 1}), Error);
  const Item long_keys{0, 1, 0, int64_t{1} << 31, 0};
  EXPECT_THROW(plan_tiles(kShape, {&long_keys, 1}), Error);
}

TEST(Plan, SupportedShapes) {
  std::string why;
  EXPECT_TRUE(supported({128, 128, 32, 4}, &why));
  EXPECT_TRUE(supported({192, 128, 128, 128}, nullptr));
  EXPECT_FALSE(supported({96, 96, 32, 4}, &why));
  EXPECT_NE(why.find("96"), std::string::npos);
  EXPECT_FALSE(supported({128, 128, 32, 5}, &why));
  EXPECT_FALSE(supported({128, 64, 32, 4}, &why));
  EXPECT_FALSE(supported({128, 128, 0, 0}, &why));
}

}  // namespace
}  // namespace longhaul::attention::sm90
