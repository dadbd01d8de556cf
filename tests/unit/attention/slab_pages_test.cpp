// The page bookkeeping of a cache against a plain account of who has which row.

#include "attention/slab_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul::attention {
namespace {

TEST(SlabPages, RandomRunsKeepEverySlotItsOwnRow) {
  std::mt19937 rng(7);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  for (int run = 0; run < 800; ++run) {
    const int sequences = static_cast<int>(draw(1, 9));
    const int64_t page = draw(1, 70);
    SlabPages pages(sequences, page);
    if (run % 3 != 0) pages.add_slab(draw(0, 30));
    std::vector<int64_t> totals(static_cast<size_t>(sequences), 0);
    std::map<std::pair<int, int64_t>, std::pair<int, int64_t>> before;  // (sequence, slot) -> row
    for (int step = 0; step < 6; ++step) {
      for (int64_t& t : totals)
        if (draw(0, 2) != 0) t += draw(0, step == 0 ? 400 : 80);
      const int slabs_before = pages.num_slabs();
      if (const int64_t missing = pages.missing_pages(totals); missing > 0) {
        EXPECT_THROW(pages.take(totals), Error);
        pages.add_slab(std::max<int64_t>(missing, draw(1, 16)));
      }
      pages.take(totals);
      EXPECT_LE(pages.num_slabs(), slabs_before + 1);
      std::map<std::pair<int, int64_t>, std::pair<int, int64_t>> now;
      std::set<std::pair<int, int64_t>> rows;
      for (int s = 0; s < sequences; ++s)
        for (int64_t slot = 0; slot < totals[static_cast<size_t>(s)]; ++slot) {
          const SlabPages::Extent e = pages.at(s, slot);
          ASSERT_EQ(e.slot, slot);
          ASSERT_GE(e.rows, 1);
          ASSERT_LE(e.row + e.rows, pages.slab_rows(e.slab));
          ASSERT_TRUE(rows.insert({e.slab, e.row}).second) << "two slots in one row";
          now[{s, slot}] = {e.slab, e.row};
          const auto old = before.find({s, slot});
          if (old != before.end()) {
            ASSERT_EQ(old->second, (std::pair{e.slab, e.row})) << "a stored row moved";
          }
        }
      before = std::move(now);
    }
  }
}

TEST(SlabPages, OneSlabOfTheRightSizeGivesEverySequenceOnePiece) {
  SlabPages pages(3, 64);
  const std::vector<int64_t> totals = {300, 1, 16384};
  pages.add_slab(5 + 1 + 256);
  EXPECT_EQ(pages.missing_pages(totals), 0);
  pages.take(totals);
  for (int s = 0; s < 3; ++s) EXPECT_EQ(pages.extents(s).size(), 1u);
  EXPECT_THROW(pages.at(1, 64), Error);
  EXPECT_THROW(pages.at(0, -1), Error);
}

}  // namespace
}  // namespace longhaul::attention
