#include "runtime/layout/batch_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "runtime/core/check.h"
#include "tests/unit/layout/random_batches.h"

namespace longhaul::layout {
namespace {

constexpr LayoutKind kKinds[] = {LayoutKind::balanced, LayoutKind::zigzag, LayoutKind::contiguous};

std::vector<int64_t> lengths(const BatchLayout& layout, int sequence) {
  std::vector<int64_t> result;
  for (int i = 0; i < 2 * layout.cp(); ++i) {
    const BatchLayout::Owner o = layout.owner(sequence, i);
    result.push_back(layout.block(o.cp_rank, o.half, sequence).length);
  }
  return result;
}

TEST(BatchLayout, ZigzagPutsRemaindersOnTheFirstBlocks) {
  const SequenceExtent batch[] = {{2, 9}, {3, 10}};
  const BatchLayout layout = BatchLayout::make(LayoutKind::zigzag, 4, batch);
  EXPECT_EQ(lengths(layout, 0), (std::vector<int64_t>{2, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(lengths(layout, 1), (std::vector<int64_t>{2, 2, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(layout.block(0, Half::prev, 0), (Block{2, 2}));
  EXPECT_EQ(layout.block(0, Half::next, 0), (Block{10, 1}));
  EXPECT_EQ(layout.block(3, Half::next, 1), (Block{9, 1}));
  EXPECT_EQ(layout.row(0, Half::next, 1), 5);
  EXPECT_EQ(layout.num_tokens(0), 6);
  EXPECT_EQ(layout.total_tokens(), 19);
}

TEST(BatchLayout, ContiguousCutsAtFloorOfTheFraction) {
  const SequenceExtent batch[] = {{5, 10}, {0, 2}};
  const BatchLayout layout = BatchLayout::make(LayoutKind::contiguous, 4, batch);
  EXPECT_EQ(lengths(layout, 0), (std::vector<int64_t>{2, 3, 2, 3, 0, 0, 0, 0}));
  EXPECT_EQ(lengths(layout, 1), (std::vector<int64_t>{0, 1, 0, 1, 0, 0, 0, 0}));
  EXPECT_EQ(layout.block(1, Half::prev, 0), (Block{7, 3}));
  EXPECT_EQ(layout.block(1, Half::next, 0), (Block{15, 0}));
}

// The contiguous split's known cost: the last rank does (1 - 1/(2N)) / (1/2) of the mean.
TEST(BatchLayout, ImbalanceOfContiguousIsTheKnownFormula) {
  const SequenceExtent batch[] = {{0, 1 << 20}};
  for (int cp : {2, 4, 8}) {
    const Imbalance i = imbalance(BatchLayout::make(LayoutKind::contiguous, cp, batch));
    EXPECT_NEAR(i.area, 2.0 - 1.0 / cp, 1e-5);
    EXPECT_EQ(i.tokens, 1.0);
  }
}

// Every new token has exactly one place, rows of a rank are filled without gaps in local order, and
// place() finds them.
void check_bijection(const BatchLayout& layout) {
  int64_t total = 0;
  double area = 0;
  for (int r = 0; r < layout.cp(); ++r) {
    int64_t row = 0;
    double rank_area = 0;
    for (Half half : {Half::prev, Half::next}) {
      for (int s = 0; s < layout.num_sequences(); ++s) {
        const Block& block = layout.block(r, half, s);
        ASSERT_EQ(layout.row(r, half, s), row);
        for (int64_t p = block.start; p < block.end(); ++p, ++row) {
          const BatchLayout::Place place = layout.place(s, p);
          ASSERT_EQ(place.cp_rank, r);
          ASSERT_EQ(place.row, row);
          rank_area += static_cast<double>(p + 1);
        }
      }
    }
    ASSERT_EQ(layout.num_tokens(r), row);
    ASSERT_EQ(layout.area(r), rank_area);  // integers below 2^53: exact
    total += row;
    area += rank_area;
  }
  ASSERT_EQ(total, layout.total_tokens());
  double expected_area = 0;
  int64_t expected_total = 0;
  for (const SequenceExtent& s : layout.sequences()) {
    expected_total += s.extend;
    for (int64_t p = s.prefix; p < s.prefix + s.extend; ++p)
      expected_area += static_cast<double>(p + 1);
  }
  ASSERT_EQ(total, expected_total);
  ASSERT_EQ(area, expected_area);
}

// Prev is not above next, an only block is "prev", and natural order covers the sequence.
void check_order(const BatchLayout& layout) {
  for (int s = 0; s < layout.num_sequences(); ++s) {
    int64_t position = layout.sequences()[static_cast<size_t>(s)].prefix;
    std::vector<bool> seen(static_cast<size_t>(2 * layout.cp()), false);
    for (int i = 0; i < 2 * layout.cp(); ++i) {
      const BatchLayout::Owner o = layout.owner(s, i);
      const size_t id = static_cast<size_t>(o.cp_rank) * 2 + static_cast<size_t>(o.half);
      ASSERT_FALSE(seen[id]);
      seen[id] = true;
      const Block& block = layout.block(o.cp_rank, o.half, s);
      ASSERT_EQ(block.start, position);
      position = block.end();
    }
    for (int r = 0; r < layout.cp(); ++r) {
      const Block& prev = layout.block(r, Half::prev, s);
      const Block& next = layout.block(r, Half::next, s);
      ASSERT_LE(prev.end(), next.start);
      ASSERT_TRUE(prev.length > 0 || next.length == 0);
    }
  }
}

TEST(BatchLayout, EveryTokenHasOnePlaceInRandomBatches) {
  RandomBatches random(1);
  for (int i = 0; i < 2000; ++i) {
    const int cp = random.cp();
    const auto batch = random.batch(6, i % 2 == 0 ? 4 : 9);
    for (LayoutKind kind : kKinds) {
      SCOPED_TRACE(describe(kind, cp, batch));
      const BatchLayout layout = BatchLayout::make(kind, cp, batch);
      check_bijection(layout);
      check_order(layout);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(BatchLayout, TokensOutsideTheNewOnesHaveNoPlace) {
  const SequenceExtent batch[] = {{5, 3}};
  const BatchLayout layout = BatchLayout::make(LayoutKind::zigzag, 2, batch);
  EXPECT_THROW(layout.place(0, 4), Error);
  EXPECT_THROW(layout.place(0, 8), Error);
  EXPECT_EQ(layout.place(0, 5).cp_rank, 0);
}

TEST(BatchLayout, RefusesWhatCannotBe) {
  const SequenceExtent negative[] = {{0, -1}};
  const SequenceExtent one[] = {{0, 1}};
  RankLoad load{{1, 2}, {0, 0}};
  EXPECT_THROW(BatchLayout::make(LayoutKind::zigzag, 2, negative), Error);
  const SequenceExtent past[] = {
      {0, int64_t{1} << 60}, {0, int64_t{1} << 60}, {0, int64_t{1} << 60}};
  EXPECT_THROW(BatchLayout::make(LayoutKind::zigzag, 2, past), Error);
  EXPECT_THROW(BatchLayout::make(LayoutKind::zigzag, 0, one), Error);
  EXPECT_THROW(BatchLayout::make(LayoutKind::zigzag, 3, one, &load), Error);
}

TEST(BatchLayout, EmptyBatchesAreFine) {
  for (LayoutKind kind : kKinds) {
    const BatchLayout none = BatchLayout::make(kind, 4, {});
    EXPECT_EQ(none.total_tokens(), 0);
    EXPECT_EQ(imbalance(none).area, 1.0);
    const SequenceExtent idle[] = {{7, 0}, {0, 0}};
    const BatchLayout layout = BatchLayout::make(kind, 4, idle);
    EXPECT_EQ(layout.total_tokens(), 0);
    EXPECT_EQ(layout.block(3, Half::next, 0), (Block{7, 0}));
  }
}

TEST(BatchLayout, NamesAreParsedAndSuggested) {
  for (LayoutKind kind : kKinds) EXPECT_EQ(parse_layout(layout_name(kind)), kind);
  try {
    parse_layout("zigzga");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_STREQ(e.what(), "unknown layout 'zigzga': did you mean 'zigzag'?");
  }
}

// The bound against the optimum over every way to hand tokens (even single ones) to ranks.
double best_by_brute_force(int cp, const std::vector<SequenceExtent>& batch) {
  std::vector<int64_t> work;
  int64_t total = 0;
  for (const SequenceExtent& s : batch)
    for (int64_t p = s.prefix; p < s.prefix + s.extend; ++p) work.push_back(p + 1);
  for (int64_t w : work) total += w;
  std::vector<size_t> rank(work.size(), 0);
  int64_t best = total;
  while (true) {
    std::vector<int64_t> sum(static_cast<size_t>(cp), 0);
    for (size_t i = 0; i < work.size(); ++i) sum[rank[i]] += work[i];
    best = std::min(best, *std::max_element(sum.begin(), sum.end()));
    size_t i = 0;
    while (i < rank.size() && ++rank[i] == static_cast<size_t>(cp)) rank[i++] = 0;
    if (i == rank.size()) break;
  }
  return static_cast<double>(best) * cp / static_cast<double>(total);
}

TEST(BatchLayout, LowerBoundHoldsAgainstEveryPlacement) {
  RandomBatches random(2);
  int tight = 0, cases = 0;
  while (cases < 400) {
    const int cp = static_cast<int>(random.between(2, 4));
    std::vector<SequenceExtent> batch(static_cast<size_t>(random.between(1, 3)));
    int64_t tokens = 0;
    for (SequenceExtent& s : batch) {
      s = {random.between(0, 1) * random.between(0, 40), random.between(1, 4)};
      tokens += s.extend;
    }
    if (tokens > 7) continue;
    ++cases;
    const double best = best_by_brute_force(cp, batch);
    const double bound = area_imbalance_lower_bound(cp, batch);
    ASSERT_LE(bound, best * (1 + 1e-12)) << describe(LayoutKind::balanced, cp, batch);
    tight += bound > best * (1 - 1e-12) ? 1 : 0;
  }
  EXPECT_GT(tight, cases / 2);
}

}  // namespace
}  // namespace longhaul::layout
