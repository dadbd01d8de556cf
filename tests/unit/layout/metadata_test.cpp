#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "runtime/layout/context_parallel_metadata.h"
#include "tests/unit/layout/random_batches.h"

namespace longhaul::layout {
namespace {

using List = std::vector<int64_t>;

std::vector<SequenceExtent> extents(const List& prefix, const List& extend) {
  std::vector<SequenceExtent> batch;
  for (size_t i = 0; i < prefix.size(); ++i) batch.push_back({prefix[i], extend[i]});
  return batch;
}

TEST(Metadata, ZigzagEqualsTheSharedExpectations) {
  std::ifstream file(LONGHAUL_TEST_DATA "/layout/cases.json");
  ASSERT_TRUE(file);
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 7u);
  for (const auto& expected : cases) {
    SCOPED_TRACE(expected["extend_lens"].dump());
    const auto batch = extents(expected["prefix_lens"], expected["extend_lens"]);
    const int cp = expected["cp"];
    const BatchLayout layout = BatchLayout::make(LayoutKind::zigzag, cp, batch);
    ASSERT_EQ(expected["ranks"].size(), static_cast<size_t>(cp));
    for (int r = 0; r < cp; ++r) {
      const ContextParallelMetadata m = make_metadata(layout, r);
      EXPECT_EQ(m.bs, static_cast<int>(batch.size()));
      EXPECT_EQ(m.split_list, expected["split_list"].get<List>());
      EXPECT_EQ(m.per_rank_actual_token, expected["per_rank_actual_token"].get<List>());
      EXPECT_EQ(m.reverse_split_len, expected["reverse_split_len"].get<List>());
      EXPECT_EQ(m.cp_reverse_index, expected["cp_reverse_index"].get<List>());
      const auto& rank = expected["ranks"][static_cast<size_t>(r)];
      EXPECT_EQ(m.zigzag_index, rank["zigzag_index"].get<List>());
      EXPECT_EQ(m.actual_seq_q_prev_list, rank["actual_seq_q_prev_list"].get<List>());
      EXPECT_EQ(m.actual_seq_q_next_list, rank["actual_seq_q_next_list"].get<List>());
      EXPECT_EQ(m.kv_len_prev_list, rank["kv_len_prev_list"].get<List>());
      EXPECT_EQ(m.kv_len_next_list, rank["kv_len_next_list"].get<List>());
      EXPECT_EQ(m.cu_seqlens_q_prev, rank["cu_seqlens_q_prev"].get<List>());
      EXPECT_EQ(m.cu_seqlens_q_next, rank["cu_seqlens_q_next"].get<List>());
      EXPECT_EQ(m.total_q_prev_tokens, rank["total_q_prev_tokens"].get<int64_t>());
      EXPECT_EQ(m.total_q_next_tokens, rank["total_q_next_tokens"].get<int64_t>());
      EXPECT_EQ(m.max_seqlen_q_prev, rank["max_seqlen_q_prev"].get<int64_t>());
      EXPECT_EQ(m.max_seqlen_q_next, rank["max_seqlen_q_next"].get<int64_t>());
      EXPECT_EQ(m.q_start_prev, rank["q_start_prev"].get<List>());
      EXPECT_EQ(m.q_start_next, rank["q_start_next"].get<List>());
    }
  }
}

// What a backend does with the lists: gather every rank's local tokens one rank after another, cut
// them into blocks by reverse_split_len, pick the blocks by cp_reverse_index: natural order.
void check_round_trip(const BatchLayout& layout, const std::vector<SequenceExtent>& batch) {
  List natural;
  for (size_t s = 0; s < batch.size(); ++s)
    for (int64_t p = 0; p < batch[s].extend; ++p)
      natural.push_back(static_cast<int64_t>(s) * 1000003 + batch[s].prefix + p);
  List gathered;
  for (int r = 0; r < layout.cp(); ++r) {
    const ContextParallelMetadata m = make_metadata(layout, r);
    List cut_at(m.split_list.size() + 1, 0);
    std::partial_sum(m.split_list.begin(), m.split_list.end(), cut_at.begin() + 1);
    ASSERT_EQ(cut_at.back(), static_cast<int64_t>(natural.size()));
    for (int64_t block : m.zigzag_index)
      for (int64_t i = cut_at[static_cast<size_t>(block)];
           i < cut_at[static_cast<size_t>(block) + 1]; ++i)
        gathered.push_back(natural[static_cast<size_t>(i)]);
  }
  const ContextParallelMetadata m = make_metadata(layout, 0);
  List begin(m.reverse_split_len.size() + 1, 0);
  std::partial_sum(m.reverse_split_len.begin(), m.reverse_split_len.end(), begin.begin() + 1);
  List restored;
  for (int64_t block : m.cp_reverse_index)
    for (int64_t i = begin[static_cast<size_t>(block)]; i < begin[static_cast<size_t>(block) + 1];
         ++i)
      restored.push_back(gathered[static_cast<size_t>(i)]);
  ASSERT_EQ(restored, natural);
}

// Every list of one rank must tell the same story as the blocks.
void check_rank(const BatchLayout& layout, const ContextParallelMetadata& m) {
  const size_t bs = static_cast<size_t>(m.bs);
  ASSERT_EQ(m.zigzag_index.size(), 2 * bs);
  ASSERT_EQ(m.cu_seqlens_q_prev.size(), bs + 1);
  ASSERT_EQ(m.cu_seqlens_q_next.size(), bs + 1);
  ASSERT_EQ(m.cu_seqlens_q_prev.back(), m.total_q_prev_tokens);
  ASSERT_EQ(m.cu_seqlens_q_next.back(), m.total_q_next_tokens);
  ASSERT_EQ(m.total_q_prev_tokens + m.total_q_next_tokens, layout.num_tokens(m.cp_rank));
  int64_t longest_prev = 0, longest_next = 0;
  for (size_t s = 0; s < bs; ++s) {
    const int sequence = static_cast<int>(s);
    const int64_t prev = m.actual_seq_q_prev_list[s], next = m.actual_seq_q_next_list[s];
    longest_prev = std::max(longest_prev, prev);
    longest_next = std::max(longest_next, next);
    ASSERT_EQ(m.kv_len_prev_list[s], m.q_start_prev[s] + prev);
    ASSERT_EQ(m.kv_len_next_list[s], m.q_start_next[s] + next);
    ASSERT_EQ(m.cu_seqlens_q_prev[s + 1] - m.cu_seqlens_q_prev[s], prev);
    ASSERT_EQ(m.cu_seqlens_q_next[s + 1] - m.cu_seqlens_q_next[s], next);
    ASSERT_EQ(m.split_list[static_cast<size_t>(m.zigzag_index[s])], prev);
    ASSERT_EQ(m.split_list[static_cast<size_t>(m.zigzag_index[bs + s])], next);
    // The halves' first rows: prev at cu_seqlens, next after total_q_prev_tokens.
    if (prev > 0) {
      const BatchLayout::Place place = layout.place(sequence, m.q_start_prev[s]);
      ASSERT_EQ(place.cp_rank, m.cp_rank);
      ASSERT_EQ(place.row, m.cu_seqlens_q_prev[s]);
    }
    if (next > 0) {
      const BatchLayout::Place place = layout.place(sequence, m.q_start_next[s]);
      ASSERT_EQ(place.cp_rank, m.cp_rank);
      ASSERT_EQ(place.row, m.total_q_prev_tokens + m.cu_seqlens_q_next[s]);
    }
  }
  ASSERT_EQ(m.max_seqlen_q_prev, longest_prev);
  ASSERT_EQ(m.max_seqlen_q_next, longest_next);
}

TEST(Metadata, RandomBatchesRoundTripInEveryLayout) {
  RandomBatches random(3);
  for (int i = 0; i < 3000; ++i) {
    const int cp = random.cp();
    const auto batch = random.batch(5, cp > 8 ? 7 : 8);
    const LayoutKind kind = random.kind();
    SCOPED_TRACE(describe(kind, cp, batch));
    const BatchLayout layout = BatchLayout::make(kind, cp, batch);
    check_round_trip(layout, batch);
    List permutation = make_metadata(layout, 0).cp_reverse_index;
    std::sort(permutation.begin(), permutation.end());
    for (size_t k = 0; k < permutation.size(); ++k)
      ASSERT_EQ(permutation[k], static_cast<int64_t>(k));
    for (int r = 0; r < cp; ++r) check_rank(layout, make_metadata(layout, r));
    if (HasFatalFailure()) return;
  }
}

// The closed form of the peers' index, for lengths below and above 2*cp.
TEST(Metadata, ZigzagReverseIndexHasItsClosedForm) {
  RandomBatches random(4);
  for (int i = 0; i < 500; ++i) {
    const int cp = random.cp();
    const auto batch = random.batch(6, 9);
    const int64_t bs = static_cast<int64_t>(batch.size()), n = 2 * cp;
    const auto m = make_metadata(BatchLayout::make(LayoutKind::zigzag, cp, batch), 0);
    for (int64_t s = 0; s < bs; ++s)
      for (int64_t b = 0; b < n; ++b)
        ASSERT_EQ(m.cp_reverse_index[static_cast<size_t>(s * n + b)],
                  b < cp ? b * 2 * bs + s : (n - 1 - b) * 2 * bs + bs + s);
  }
}

}  // namespace
}  // namespace longhaul::layout
