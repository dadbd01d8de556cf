// The work table of the sm_90a attention kernel: pure host code, needs no device.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "attention/backends/cuda/attention_sm90.h"
#include "runtime/core/check.h"

namespace longhaul::attention::cuda::sm90 {
namespace {

constexpr Shape kShape{DType::bf16, 128, 128, 8, 2};

struct Table {
  std::vector<Tile> tiles;
  std::vector<Merge> merges;
};
Table table_of(const Plan& plan) {
  Table t{std::vector<Tile>(static_cast<size_t>(plan.num_tiles)),
          std::vector<Merge>(static_cast<size_t>(plan.num_merges))};
  const size_t bytes = t.tiles.size() * sizeof(Tile);
  EXPECT_EQ(plan.table.size(), bytes + t.merges.size() * sizeof(Merge));
  if (bytes > 0) std::memcpy(t.tiles.data(), plan.table.data(), bytes);
  if (!t.merges.empty())
    std::memcpy(t.merges.data(), plan.table.data() + bytes, plan.table.size() - bytes);
  return t;
}

// Keys of one query, from the tiles: [begin, end) counted from the item's key 0, by kv place.
using Ranges = std::vector<std::pair<int64_t, int64_t>>;

void check_plan(const Shape& shape, const std::vector<Item>& items, const PlanOptions& options) {
  const Plan plan = make_plan(shape, items, options);
  const Table table = table_of(plan);
  const int64_t block = keys_per_block(shape);
  std::map<int64_t, Ranges> seen;     // q row -> places of keys
  std::map<int64_t, int64_t> pages;   // q row -> page_begin
  std::map<int32_t, int32_t> row_of;  // partial -> q row
  int64_t last_end = kNoMask;
  double area = 0;
  for (const Tile& tile : table.tiles) {
    ASSERT_GE(tile.q_count, 1);
    ASSERT_LE(tile.q_count * plan.heads_per_tile, rows_per_tile(shape));
    ASSERT_LE(tile.kv_end, last_end) << "longest first";
    last_end = tile.kv_end;
    int64_t most = 0;
    for (int64_t i = 0; i < tile.q_count; ++i) {
      const int64_t keys =
          std::clamp(std::min<int64_t>(tile.diagonal + i + 1, tile.kv_end), int64_t{0}, kNoMask);
      most = std::max(most, keys);
      area += static_cast<double>(keys);
      if (keys > 0) seen[tile.q_row + i].push_back({tile.kv_row, tile.kv_row + keys});
      const auto place = pages.emplace(tile.q_row + i, tile.page_begin);
      ASSERT_EQ(place.first->second, tile.page_begin);
      ASSERT_TRUE(place.second || tile.partial >= 0) << "a query twice";
    }
    ASSERT_EQ(most, tile.kv_end) << "the kernel may clear values past kv_end";
    if (tile.partial >= 0) {
      ASSERT_TRUE(row_of.emplace(tile.partial, tile.q_row).second);
    }
  }
  EXPECT_NEAR(plan.flops, 2.0 * (shape.head_dim + shape.head_dim_v) * shape.num_heads * area,
              1e-9 * plan.flops);
  size_t queries = 0;
  for (const Item& item : items) {
    queries += static_cast<size_t>(item.q_length);
    for (int64_t i = 0; i < item.q_length; ++i) {
      ASSERT_TRUE(pages.contains(item.q_row + i));
      ASSERT_EQ(pages[item.q_row + i], item.page_begin);
      Ranges parts = seen[item.q_row + i];
      std::sort(parts.begin(), parts.end());
      const int64_t first = item.page_begin >= 0 ? 0 : item.kv_row;
      int64_t at = first;
      for (const auto& [begin, end] : parts) {
        ASSERT_EQ(begin, at) << "parts meet";
        ASSERT_EQ((begin - first) % block, 0) << "at borders of blocks";
        at = end;
      }
      ASSERT_EQ(at - first, std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length));
    }
  }
  ASSERT_EQ(pages.size(), queries);

  size_t partials = 0;
  int most_parts = 1;
  for (const Tile& tile : table.tiles) {
    if (tile.join == 0) continue;
    const int part = tile.join >> 8, parts = tile.join & 0xff;
    ASSERT_LT(part, parts);
    ASSERT_LE(parts, kMostJoinedParts);
    for (int32_t i = 0; i < parts; ++i) ASSERT_EQ(row_of.at(tile.partial - part + i), tile.q_row);
    ++partials;
    most_parts = std::max(most_parts, parts);
  }
  for (const Merge& merge : table.merges) {
    for (int32_t i = 0; i < merge.count; ++i) ASSERT_EQ(row_of.at(merge.first + i), merge.q_row);
    ASSERT_GT(merge.count, joins_parts(shape.head_dim) ? kMostJoinedParts : 1);
    partials += static_cast<size_t>(merge.count);
    most_parts = std::max(most_parts, merge.count);
  }
  ASSERT_EQ(partials, row_of.size());
  ASSERT_EQ(static_cast<int64_t>(partials), plan.num_partials);
  ASSERT_EQ(most_parts, plan.num_splits);
  if (options.deterministic) {
    ASSERT_EQ(plan.num_splits, 1);
  }
}

TEST(Plan, EveryQueryOnceWithItsKeys) {
  std::mt19937_64 engine(1);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  for (int round = 0; round < 600; ++round) {
    const Shape shape = round % 3 == 0   ? kShape
                        : round % 3 == 1 ? Shape{DType::bf16, 64, 64, 4, 4}
                                         : Shape{DType::bf16, 256, 256, 10, 2};
    PlanOptions options;
    options.page_size = between(0, 1) == 0 ? 0 : 64;
    options.deterministic = between(0, 4) == 0;
    options.multiprocessors = static_cast<int>(between(1, 300));
    std::vector<Item> items;
    int64_t row = 0;
    for (int64_t n = between(1, 20); n > 0; --n) {
      Item item;
      item.q_row = row += between(0, 3);
      item.q_length = between(0, between(0, 1) == 0 ? 10 : 700);
      item.kv_row = between(0, 1000);
      item.kv_length = between(0, 1500);
      item.causal_offset = between(0, 3) == 0 ? kNoMask : between(-800, 1500);
      if (options.page_size > 0 && between(0, 3) != 0) item.page_begin = between(0, 1000);
      row += item.q_length;
      items.push_back(item);
    }
    check_plan(shape, items, options);
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

TEST(Plan, CutsKeysOnlyWhereMultiprocessorsWouldIdle) {
  const auto parts = [](Item item, Shape shape = kShape) {
    return make_plan(shape, {&item, 1}, {}).num_splits;
  };
  EXPECT_GT(parts({0, 1024, 0, 1024, 0, -1}, {DType::bf16, 128, 128, 8, 1}), 1);
  EXPECT_GT(parts({0, 1, 0, 65536, 65535, -1}), 32);
  EXPECT_EQ(parts({0, 32768, 0, 32768, 0, -1}, {DType::bf16, 128, 128, 32, 4}), 1);
  EXPECT_EQ(parts({0, 8192, 0, 8192, 0, -1}, {DType::bf16, 128, 128, 32, 4}), 1);
  EXPECT_EQ(parts({0, 64, 0, 64, 0, -1}), 1);
}

TEST(Plan, HeadsShareTilesOnlyWhereQueriesAreFew) {
  const auto heads = [](int64_t queries) {
    const Item item{0, queries, 0, 4096, 4096 - queries, -1};
    return make_plan(kShape, {&item, 1}, {}).heads_per_tile;
  };
  EXPECT_EQ(heads(1), 4);
  EXPECT_EQ(heads(8), 4);
  EXPECT_EQ(heads(128), 1);
  EXPECT_EQ(heads(4096), 1);
}

TEST(Plan, RefusesWhatDoesNotFit) {
  const auto plan = [](Item item, PlanOptions options = {}) {
    (void)make_plan(kShape, {&item, 1}, options);
  };
  EXPECT_THROW(plan({int64_t{1} << 30, 1, 0, 1, 0, -1}), Error);
  EXPECT_THROW(plan({-1, 1, 0, 1, 0, -1}), Error);
  EXPECT_THROW(plan({0, 1, 0, int64_t{1} << 31, 0, -1}), Error);
  EXPECT_THROW(plan({0, 1, 0, 1, 0, 3}), Error) << "pages, but no page size";
  EXPECT_THROW(plan({0, 1, 0, 1, 0, 3}, {132, 48, false}), Error) << "not a power of two";
}

TEST(Plan, SupportedShapes) {
  std::string why;
  EXPECT_TRUE(shape_supported({DType::bf16, 128, 128, 32, 4}, &why));
  EXPECT_TRUE(shape_supported({DType::bf16, 192, 128, 128, 128}, nullptr));
  EXPECT_FALSE(shape_supported({DType::bf16, 96, 96, 32, 4}, &why));
  EXPECT_NE(why.find("96"), std::string::npos);
  EXPECT_FALSE(shape_supported({DType::bf16, 128, 128, 32, 5}, &why));
  EXPECT_FALSE(shape_supported({DType::bf16, 128, 64, 32, 4}, &why));
  EXPECT_FALSE(shape_supported({DType::bf16, 128, 128, 0, 0}, &why));
  EXPECT_FALSE(shape_supported({DType::f32, 128, 128, 32, 4}, &why));
  longhaul::cuda::Device ampere;
  ampere.major = 8;
  EXPECT_FALSE(supported(ampere, kShape, &why));
  EXPECT_NE(why.find("9.0"), std::string::npos);
}

}  // namespace
}  // namespace longhaul::attention::cuda::sm90
