#pragma once
// The lists a two-half (prev/next) attention backend wants, per rank, under the peers' names.

#include <cstdint>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

// bs sequences, n = 2*cp blocks each. Blocks are numbered sequence-major: s*n + i, i in natural
// order of the tokens. Equal to shared expected values for zigzag; defined for every layout.
struct ContextParallelMetadata {
  // Batch level, the same on every rank.
  int bs = 0;
  int cp = 1;
  std::vector<int64_t> split_list;             // [bs*n] block lengths in natural order
  std::vector<int64_t> per_rank_actual_token;  // [cp]
  std::vector<int64_t> reverse_split_len;      // [bs*n] block lengths in rank-major gathered order
  std::vector<int64_t> cp_reverse_index;       // [bs*n] gathered block at each natural place

  // Of one rank.
  int cp_rank = 0;
  std::vector<int64_t> zigzag_index;            // [2*bs] blocks owned: prevs, then nexts
  std::vector<int64_t> actual_seq_q_prev_list;  // [bs]
  std::vector<int64_t> actual_seq_q_next_list;  // [bs]
  std::vector<int64_t> kv_len_prev_list;        // [bs] prefix + tokens up to the block's end
  std::vector<int64_t> kv_len_next_list;        // [bs]
  std::vector<int64_t> cu_seqlens_q_prev;       // [bs+1]
  std::vector<int64_t> cu_seqlens_q_next;       // [bs+1]
  int64_t total_q_prev_tokens = 0;              // where local rows split into halves
  int64_t total_q_next_tokens = 0;
  int64_t max_seqlen_q_prev = 0;
  int64_t max_seqlen_q_next = 0;
  std::vector<int64_t> q_start_prev;  // [bs] absolute position of the first query
  std::vector<int64_t> q_start_next;  // [bs]
};

ContextParallelMetadata make_metadata(const BatchLayout& layout, int cp_rank);

}  // namespace longhaul::layout
