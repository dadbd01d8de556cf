// The work table of the portable attention kernels: pure host code, needs no device.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "attention/backends/cuda/portable.h"
#include "attention/backends/cuda/portable_config.h"
#include "runtime/core/check.h"

namespace longhaul::attention::cuda::portable {
namespace {

const Shape kShape{DType::bf16, 128, 128, 8, 2};

std::vector<Tile> tiles_of(const Plan& plan) {
  std::vector<Tile> tiles(plan.table.size() / sizeof(Tile));
  std::memcpy(tiles.data(), plan.table.data(), plan.table.size());
  EXPECT_EQ(static_cast<int64_t>(tiles.size()), plan.num_tiles);
  return tiles;
}

int block_m(const Shape& shape) {
  return with_config(shape, [](auto c) { return c.kBlockM; });
}

TEST(PortablePlan, EveryQueryOnceWithItsKeys) {
  std::mt19937_64 engine(1);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  int split_plans = 0;
  for (int round = 0; round < 500; ++round) {
    Shape shape = kShape;
    if (round % 3 == 1) shape = {DType::f32, 64, 64, 4, 4};
    if (round % 3 == 2) shape = {DType::bf16, 256, 256, 4, 1};
    PlanOptions options;
    options.multiprocessors = static_cast<int>(between(1, 300));
    options.page_size = round % 2 == 0 ? 64 : 0;
    options.deterministic = round % 4 == 0;
    std::vector<Item> items;
    int64_t row = 0;
    double pairs = 0;
    for (int64_t n = between(1, 20); n > 0; --n) {
      Item item;
      item.q_row = row += between(0, 3);
      item.q_length = between(0, 700);
      item.kv_row = between(0, 1000);
      item.kv_length = between(0, 3) == 0 ? between(0, 20000) : between(0, 1500);
      item.causal_offset = between(0, 3) == 0 ? kNoMask : between(-800, 1500);
      item.page_begin = options.page_size > 0 ? between(0, 99) : -1;
      row += item.q_length;
      items.push_back(item);
      for (int64_t i = 0; i < item.q_length; ++i) {
        pairs +=
            static_cast<double>(std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length));
      }
    }
    const Plan plan = make_plan(shape, items, options);
    EXPECT_NEAR(plan.flops, 2.0 * (shape.head_dim + shape.head_dim_v) * shape.num_heads * pairs,
                1e-6 * plan.flops);
    // What each query sees, part by part, against the definition in the header.
    struct Seen {
      int64_t kv_row, page_begin, keys = 0;
    };
    std::map<int64_t, Seen> seen;
    std::map<std::pair<int, int>, int64_t> part_ends;  // (split, part) -> its last key
    int64_t last_length = kNoMask, partials = 0, splits = 0;
    for (const Tile& tile : tiles_of(plan)) {
      ASSERT_GE(tile.q_count, 1);
      ASSERT_LE(tile.q_count, block_m(shape));
      ASSERT_LE(tile.kv_end - tile.kv_begin, last_length) << "longest first";
      last_length = tile.kv_end - tile.kv_begin;
      ASSERT_EQ(tile.kv_begin % 64, 0) << "blocks at absolute positions";
      ASSERT_LE(tile.parts, kMaxParts);
      ASSERT_LE(tile.parts, plan.num_splits);
      if (tile.parts > 1) {
        ASSERT_FALSE(options.deterministic);
        ASSERT_GT(tile.kv_end, tile.kv_begin) << "no empty parts";
        ASSERT_TRUE(part_ends.emplace(std::pair{tile.split, tile.part}, tile.kv_end).second);
        partials = std::max<int64_t>(partials, tile.first_partial + tile.parts);
        splits = std::max<int64_t>(splits, tile.split + 1);
      }
      for (int64_t i = 0; i < tile.q_count; ++i) {
        const int64_t end = std::min<int64_t>(tile.diagonal + i + 1, tile.kv_end);
        Seen& s =
            seen.try_emplace(tile.q_row + i, Seen{tile.kv_row, tile.page_begin}).first->second;
        ASSERT_EQ(s.page_begin, tile.page_begin);
        s.keys += std::max<int64_t>(end - tile.kv_begin, 0);
      }
    }
    split_plans += splits > 0;
    ASSERT_EQ(static_cast<int64_t>(part_ends.size()), partials) << "every part once";
    ASSERT_EQ(plan.workspace_bytes, splits * shape.num_heads * 4 + partials * shape.num_heads *
                                                                       block_m(shape) *
                                                                       (shape.head_dim_v + 1) * 4);
    size_t queries = 0;
    for (const Item& item : items) {
      queries += static_cast<size_t>(item.q_length);
      for (int64_t i = 0; i < item.q_length; ++i) {
        const auto found = seen.find(item.q_row + i);
        ASSERT_NE(found, seen.end());
        ASSERT_EQ(found->second.kv_row, item.kv_row);
        ASSERT_EQ(found->second.keys,
                  std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length));
      }
    }
    ASSERT_EQ(seen.size(), queries);
  }
  EXPECT_GT(split_plans, 50);
}

TEST(PortablePlan, CutsOnlyWhereTilesAreFew) {
  const Item whole{0, 8192, 0, 8192, 0};
  EXPECT_EQ(make_plan({DType::bf16, 128, 128, 32, 4}, {&whole, 1}, {}).num_splits, 1);
  const Item few{0, 64, 0, 65536, 65536 - 64};
  const Plan plan = make_plan(kShape, {&few, 1}, {});
  EXPECT_GE(plan.num_splits, 28);
  EXPECT_LE(plan.num_tiles * kShape.num_heads, 264) << "one wave";
  PlanOptions deterministic;
  deterministic.deterministic = true;
  EXPECT_EQ(make_plan(kShape, {&few, 1}, deterministic).workspace_bytes, 0);
  EXPECT_EQ(make_plan(kShape, {}, {}).num_tiles, 0);
}

TEST(PortablePlan, RefusesWhatDoesNotFitCoordinates) {
  const Item far{int64_t{1} << 30, 1, 0, 1, 0};
  EXPECT_THROW(make_plan(kShape, {&far, 1}, {}), Error);
  const Item negative{-1, 1, 0, 1, 0};
  EXPECT_THROW(make_plan(kShape, {&negative, 1}, {}), Error);
  const Item long_keys{0, 1, 0, int64_t{1} << 31, 0};
  EXPECT_THROW(make_plan(kShape, {&long_keys, 1}, {}), Error);
  const Item pages_without_size{0, 1, 0, 1, 0, 0};
  EXPECT_THROW(make_plan(kShape, {&pages_without_size, 1}, {}), Error);
}

TEST(PortablePlan, SupportedShapes) {
  longhaul::cuda::Device hopper, ampere, small, volta;
  hopper.major = 9;
  ampere.major = small.major = 8;
  small.minor = 9;
  volta.major = 7;
  std::string why;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (int d = 8; d <= 256; d += 8) {
      for (int dv = 8; dv <= 256; dv += 8) {
        EXPECT_TRUE(supported(hopper, {dtype, d, dv, 6, 2}, &why)) << why;
        EXPECT_TRUE(supported(ampere, {dtype, d, dv, 6, 2}, &why)) << why;
      }
    }
  }
  EXPECT_TRUE(supported(small, kShape, nullptr));
  EXPECT_FALSE(supported(small, {DType::f32, 256, 256, 6, 2}, &why));
  EXPECT_NE(why.find("shared memory"), std::string::npos);
  EXPECT_FALSE(supported(volta, kShape, &why));
  EXPECT_FALSE(supported(hopper, {DType::bf16, 100, 96, 6, 2}, &why));
  EXPECT_NE(why.find("100"), std::string::npos);
  EXPECT_FALSE(supported(hopper, {DType::bf16, 264, 96, 6, 2}, &why));
  EXPECT_FALSE(supported(hopper, {DType::f64, 64, 64, 6, 2}, &why));
  EXPECT_FALSE(supported(hopper, {DType::bf16, 64, 64, 6, 4}, &why));
  EXPECT_FALSE(supported(hopper, {DType::bf16, 64, 64, 0, 0}, nullptr));
}

}  // namespace
}  // namespace longhaul::attention::cuda::portable
