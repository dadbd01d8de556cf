#include "runtime/layout/exchange_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "runtime/core/check.h"
#include "tests/unit/layout/random_batches.h"

namespace longhaul::layout {
namespace {

// A token's KV is stood for by one number that names it.
int64_t token_name(int sequence, int64_t position) {
  return int64_t{sequence} * 1000000007 + position;
}

// Simulated ranks: each stores, per sequence, the names of its tokens by slot.
class Ranks {
 public:
  Ranks(int cp, int num_sequences)
      : ownership_(cp, num_sequences),
        stores_(static_cast<size_t>(cp),
                std::vector<std::vector<int64_t>>(static_cast<size_t>(num_sequences))) {}

  const KvOwnership& ownership() const { return ownership_; }

  // One step: store the new tokens in local row order, exchange, and look at every query.
  void step(const BatchLayout& layout) {
    ownership_.append(layout);
    for (int r = 0; r < layout.cp(); ++r)
      for (Half half : {Half::prev, Half::next})
        for (int s = 0; s < layout.num_sequences(); ++s)
          for (int64_t p = layout.block(r, half, s).start; p < layout.block(r, half, s).end(); ++p)
            store(r, s).push_back(token_name(s, p));
    check_ownership(layout);
    std::vector<ExchangePlan> plans;
    for (int r = 0; r < layout.cp(); ++r)
      plans.push_back(make_exchange_plan(layout, ownership_, r));
    const std::vector<int64_t> rows = exchange_recv_rows(layout, ownership_);
    for (size_t r = 0; r < rows.size(); ++r) ASSERT_EQ(rows[r], plans[r].total_recv_rows);
    for (int r = 0; r < layout.cp(); ++r) check_queries(layout, r, exchange(plans, r));
  }

 private:
  std::vector<int64_t>& store(int rank, int sequence) {
    return stores_[static_cast<size_t>(rank)][static_cast<size_t>(sequence)];
  }

  // Runs name exactly the stored tokens, in ascending order, none that could have been merged.
  void check_ownership(const BatchLayout& layout) {
    for (int s = 0; s < layout.num_sequences(); ++s) {
      int64_t stored = 0;
      for (int r = 0; r < layout.cp(); ++r) {
        int64_t slots = 0, last_end = -1;
        for (const KvRun& run : ownership_.runs(r, s)) {
          ASSERT_GT(run.position, last_end);
          ASSERT_GT(run.length, 0);
          last_end = run.position + run.length;
          ASSERT_EQ(run.slot, slots);
          for (int64_t i = 0; i < run.length; ++i)
            ASSERT_EQ(store(r, s)[static_cast<size_t>(run.slot + i)],
                      token_name(s, run.position + i));
          slots += run.length;
        }
        ASSERT_EQ(slots, ownership_.num_tokens(r, s));
        ASSERT_EQ(slots, static_cast<int64_t>(store(r, s).size()));
        stored += slots;
      }
      ASSERT_EQ(stored, ownership_.length(s));
    }
  }

  // Fills every sender's buffer from its plan alone, copies the rank's part, and reads it by the
  // receiver's plan alone. Returns what arrived, by name, per sequence.
  std::vector<std::vector<int64_t>> exchange(const std::vector<ExchangePlan>& plans, int rank) {
    const ExchangePlan& mine = plans[static_cast<size_t>(rank)];
    std::vector<int64_t> received;  // rank-major
    for (size_t from = 0; from < plans.size(); ++from) {
      const ExchangePlan& theirs = plans[from];
      std::vector<int64_t> buffer(static_cast<size_t>(theirs.total_send_rows), -1);
      for (const auto& pieces : theirs.send)
        for (const KvPiece& piece : pieces)
          for (int64_t i = 0; i < piece.length; ++i)
            buffer[static_cast<size_t>(piece.row + i)] =
                store(static_cast<int>(from), piece.sequence)[static_cast<size_t>(piece.slot + i)];
      EXPECT_EQ(std::count(buffer.begin(), buffer.end(), -1), 0);
      int64_t first = 0;
      for (int to = 0; to < rank; ++to) first += theirs.send_rows[static_cast<size_t>(to)];
      const int64_t rows = theirs.send_rows[static_cast<size_t>(rank)];
      EXPECT_EQ(rows, mine.recv_rows[from]);
      received.insert(received.end(), buffer.begin() + first, buffer.begin() + first + rows);
      compare_pieces(theirs.send[static_cast<size_t>(rank)], mine.recv[from]);
    }
    EXPECT_EQ(static_cast<int64_t>(received.size()), mine.total_recv_rows);
    std::vector<std::vector<int64_t>> keys(stores_.front().size());
    int64_t rows = 0;
    for (const auto& pieces : mine.recv)
      for (const KvPiece& piece : pieces) {
        EXPECT_EQ(piece.row, rows);
        rows += piece.length;
        for (int64_t i = 0; i < piece.length; ++i) {
          EXPECT_EQ(received[static_cast<size_t>(piece.row + i)],
                    token_name(piece.sequence, piece.position + i));
          keys[static_cast<size_t>(piece.sequence)].push_back(piece.position + i);
        }
      }
    EXPECT_EQ(rows, mine.total_recv_rows);
    EXPECT_TRUE(mine.send[static_cast<size_t>(rank)].empty());
    EXPECT_TRUE(mine.recv[static_cast<size_t>(rank)].empty());
    return keys;
  }

  static void compare_pieces(const std::vector<KvPiece>& sent, const std::vector<KvPiece>& got) {
    ASSERT_EQ(sent.size(), got.size());
    for (size_t i = 0; i < sent.size(); ++i) {
      KvPiece a = sent[i];
      a.row = got[i].row;  // rows count in different buffers
      ASSERT_EQ(a, got[i]);
    }
  }

  // Own and received keys together are exactly [0, largest position asked + 1), each once; a
  // sequence without queries receives nothing.
  void check_queries(const BatchLayout& layout, int rank, std::vector<std::vector<int64_t>> keys) {
    for (int s = 0; s < layout.num_sequences(); ++s) {
      int64_t needed = 0;
      for (Half half : {Half::prev, Half::next})
        if (layout.block(rank, half, s).length > 0)
          needed = std::max(needed, layout.block(rank, half, s).end());
      std::vector<int64_t>& have = keys[static_cast<size_t>(s)];
      if (needed == 0) {
        ASSERT_TRUE(have.empty());
        continue;
      }
      for (int64_t name : store(rank, s)) {
        const int64_t position = name - token_name(s, 0);
        if (position < needed) have.push_back(position);
      }
      std::sort(have.begin(), have.end());
      ASSERT_EQ(static_cast<int64_t>(have.size()), needed);
      for (size_t i = 0; i < have.size(); ++i) ASSERT_EQ(have[i], static_cast<int64_t>(i));
    }
  }

  KvOwnership ownership_;
  std::vector<std::vector<std::vector<int64_t>>> stores_;  // [cp][sequence][slot]
};

TEST(ExchangePlan, MovesExactlyWhatQueriesNeedOverMixedSteps) {
  RandomBatches random(5);
  for (int i = 0; i < 1500; ++i) {
    const int cp = static_cast<int>(random.between(1, i % 10 == 0 ? 16 : 6));
    const int bs = static_cast<int>(random.between(1, 4));
    Ranks ranks(cp, bs);
    const int64_t steps = random.between(1, 5);
    for (int64_t step = 0; step < steps; ++step) {
      const bool decode = random.between(0, 3) == 0;
      std::vector<SequenceExtent> batch;
      for (int s = 0; s < bs; ++s)
        batch.push_back({ranks.ownership().length(s), decode ? 1 : random.length(6)});
      const LayoutKind kind = random.kind();
      SCOPED_TRACE(describe(kind, cp, batch));
      ranks.step(BatchLayout::make(kind, cp, batch));
      if (HasFailure()) return;
    }
  }
}

TEST(ExchangePlan, AWholeSequenceOnOneRankMovesNothing) {
  const SequenceExtent batch[] = {{0, 1}, {0, 1}, {0, 1}};
  const BatchLayout layout = BatchLayout::make(LayoutKind::balanced, 3, batch);
  KvOwnership ownership(3, 3);
  ownership.append(layout);
  for (int r = 0; r < 3; ++r) {
    const ExchangePlan plan = make_exchange_plan(layout, ownership, r);
    EXPECT_EQ(plan.total_send_rows, 0);
    EXPECT_EQ(plan.total_recv_rows, 0);
  }
}

// zigzag, cp 2, 8 tokens: rank 1 owns [2,6) and never needs [6,8); rank 0 needs everything.
TEST(ExchangePlan, ZigzagKeepsTheCausallyUselessQuarterHome) {
  const SequenceExtent batch[] = {{0, 8}};
  const BatchLayout layout = BatchLayout::make(LayoutKind::zigzag, 2, batch);
  KvOwnership ownership(2, 1);
  ownership.append(layout);
  const ExchangePlan first = make_exchange_plan(layout, ownership, 0);
  const ExchangePlan second = make_exchange_plan(layout, ownership, 1);
  EXPECT_EQ(first.recv[1], (std::vector<KvPiece>{{0, 2, 4, 0, 0}}));  // merged: one run
  EXPECT_EQ(second.recv[0], (std::vector<KvPiece>{{0, 0, 2, 0, 0}}));
  EXPECT_EQ(first.send_rows, (std::vector<int64_t>{0, 2}));
}

TEST(KvOwnership, MergesNeighboursAcrossStepsAndRefusesWrongPrefixes) {
  KvOwnership ownership(1, 1);
  const SequenceExtent one[] = {{0, 5}};
  const SequenceExtent two[] = {{5, 3}};
  ownership.append(BatchLayout::make(LayoutKind::zigzag, 1, one));
  ownership.append(BatchLayout::make(LayoutKind::balanced, 1, two));
  ASSERT_EQ(ownership.runs(0, 0).size(), 1u);
  EXPECT_EQ(ownership.runs(0, 0)[0], (KvRun{0, 8, 0}));
  EXPECT_THROW(ownership.append(BatchLayout::make(LayoutKind::zigzag, 1, two)), Error);
  EXPECT_THROW(ownership.append(BatchLayout::make(LayoutKind::zigzag, 2, two)), Error);
}

}  // namespace
}  // namespace longhaul::layout
