#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/plan_report.h"
#include "runtime/layout/context_parallel_metadata.h"

namespace longhaul::apps {
namespace {

using Json = nlohmann::ordered_json;

// Whole numbers as whole numbers while a double holds them exactly.
Json number(double value) {
  if (value < 9007199254740992.0 && value == std::floor(value)) return static_cast<int64_t>(value);
  return value;
}

Json rank_json(const PlanReport& report, const layout::ContextParallelMetadata& m) {
  const size_t r = static_cast<size_t>(m.cp_rank);
  Json rank;
  rank["actual_seq_q_prev_list"] = m.actual_seq_q_prev_list;
  rank["actual_seq_q_next_list"] = m.actual_seq_q_next_list;
  rank["kv_len_prev_list"] = m.kv_len_prev_list;
  rank["kv_len_next_list"] = m.kv_len_next_list;
  rank["cu_seqlens_q_prev"] = m.cu_seqlens_q_prev;
  rank["cu_seqlens_q_next"] = m.cu_seqlens_q_next;
  rank["total_q_prev_tokens"] = m.total_q_prev_tokens;
  rank["total_q_next_tokens"] = m.total_q_next_tokens;
  rank["max_seqlen_q_prev"] = m.max_seqlen_q_prev;
  rank["max_seqlen_q_next"] = m.max_seqlen_q_next;
  rank["q_start_prev"] = m.q_start_prev;
  rank["q_start_next"] = m.q_start_next;
  rank["zigzag_index"] = m.zigzag_index;
  rank["tokens"] = report.layout.num_tokens(m.cp_rank);
  rank["area"] = number(report.area[r]);
  rank["received_tokens"] = report.received_tokens[r];
  if (report.heads) {
    const double tokens = static_cast<double>(report.received_tokens[r]);
    rank["received_bytes_per_layer"] =
        number(tokens * static_cast<double>(report.heads->kv_bytes_per_token()));
    rank["attention_flops_per_layer"] =
        number(4.0 * static_cast<double>(report.heads->num_heads * report.heads->head_dim) *
               report.area[r]);
  }
  return rank;
}

}  // namespace

std::string plan_json(const PlanReport& report) {
  const layout::BatchLayout& layout = report.layout;
  Json out;
  out["cp"] = layout.cp();
  out["layout"] = layout::layout_name(layout.kind());
  Json prefixes = Json::array(), lengths = Json::array();
  for (const layout::SequenceExtent& s : layout.sequences()) {
    prefixes.push_back(s.prefix);
    lengths.push_back(s.extend);
  }
  out["prefix_lens"] = prefixes;
  out["extend_lens"] = lengths;
  Json ranks = Json::array();
  for (int r = 0; r < layout.cp(); ++r) {
    const layout::ContextParallelMetadata m = layout::make_metadata(layout, r);
    if (r == 0) {
      out["split_list"] = m.split_list;
      out["per_rank_actual_token"] = m.per_rank_actual_token;
      out["reverse_split_len"] = m.reverse_split_len;
      out["cp_reverse_index"] = m.cp_reverse_index;
    }
    ranks.push_back(rank_json(report, m));
  }
  out["imbalance"] = {{"tokens", report.imbalance.tokens},
                      {"area", report.imbalance.area},
                      {"area_lower_bound", report.area_lower_bound}};
  if (report.heads)
    out["heads"] = {{"num_heads", report.heads->num_heads},
                    {"num_kv_heads", report.heads->num_kv_heads},
                    {"head_dim", report.heads->head_dim},
                    {"element_bytes", report.heads->element_bytes}};
  out["ranks"] = std::move(ranks);
  return out.dump() + "\n";
}

}  // namespace longhaul::apps
