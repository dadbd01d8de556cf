#include "runtime/layout/context_parallel_metadata.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace longhaul::layout {
namespace {

void fill_batch_lists(ContextParallelMetadata& m, const BatchLayout& layout) {
  const int n = 2 * m.cp;
  const size_t count = static_cast<size_t>(m.bs) * static_cast<size_t>(n);
  m.split_list.reserve(count);
  m.cp_reverse_index.reserve(count);
  m.reverse_split_len.reserve(count);
  for (int s = 0; s < m.bs; ++s) {
    for (int i = 0; i < n; ++i) {
      const BatchLayout::Owner o = layout.owner(s, i);
      const int64_t gathered = (int64_t{o.cp_rank} * 2 + static_cast<int>(o.half)) * m.bs + s;
      m.split_list.push_back(layout.block(o.cp_rank, o.half, s).length);
      m.cp_reverse_index.push_back(gathered);
      if (o.cp_rank == m.cp_rank)
        m.zigzag_index[static_cast<size_t>(o.half) * static_cast<size_t>(m.bs) +
                       static_cast<size_t>(s)] = int64_t{s} * n + i;
    }
  }
  for (int r = 0; r < m.cp; ++r) {
    m.per_rank_actual_token.push_back(layout.num_tokens(r));
    for (Half half : {Half::prev, Half::next})
      for (int s = 0; s < m.bs; ++s) m.reverse_split_len.push_back(layout.block(r, half, s).length);
  }
}

struct HalfLists {
  std::vector<int64_t>&q_len, &kv_len, &cu_seqlens, &q_start;
  int64_t &total, &longest;
};

void fill_half(HalfLists lists, const BatchLayout& layout, int cp_rank, Half half) {
  lists.cu_seqlens.push_back(0);
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const Block& block = layout.block(cp_rank, half, s);
    lists.q_len.push_back(block.length);
    lists.kv_len.push_back(block.end());
    lists.q_start.push_back(block.start);
    lists.total += block.length;
    lists.longest = std::max(lists.longest, block.length);
    lists.cu_seqlens.push_back(lists.total);
  }
}

}  // namespace

ContextParallelMetadata make_metadata(const BatchLayout& layout, int cp_rank) {
  LH_CHECK(cp_rank >= 0 && cp_rank < layout.cp(), "cp rank {} of {}", cp_rank, layout.cp());
  ContextParallelMetadata m;
  m.bs = layout.num_sequences();
  m.cp = layout.cp();
  m.cp_rank = cp_rank;
  m.zigzag_index.resize(2 * static_cast<size_t>(m.bs));
  fill_batch_lists(m, layout);
  fill_half({m.actual_seq_q_prev_list, m.kv_len_prev_list, m.cu_seqlens_q_prev, m.q_start_prev,
             m.total_q_prev_tokens, m.max_seqlen_q_prev},
            layout, cp_rank, Half::prev);
  fill_half({m.actual_seq_q_next_list, m.kv_len_next_list, m.cu_seqlens_q_next, m.q_start_next,
             m.total_q_next_tokens, m.max_seqlen_q_next},
            layout, cp_rank, Half::next);
  return m;
}

}  // namespace longhaul::layout
