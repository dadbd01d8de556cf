#include "runtime/io/dump_steps.h"

#include <algorithm>

#include "runtime/layout/context_parallel_metadata.h"

namespace longhaul::io {
namespace {

using Lists = layout::ContextParallelMetadata;
struct ListField {
  const char* name;
  std::vector<int64_t> Lists::*list;
};
constexpr ListField kListFields[] = {
    {"split_list", &Lists::split_list},
    {"per_rank_actual_token", &Lists::per_rank_actual_token},
    {"reverse_split_len", &Lists::reverse_split_len},
    {"cp_reverse_index", &Lists::cp_reverse_index},
    {"zigzag_index", &Lists::zigzag_index},
    {"actual_seq_q_prev_list", &Lists::actual_seq_q_prev_list},
    {"actual_seq_q_next_list", &Lists::actual_seq_q_next_list},
    {"kv_len_prev_list", &Lists::kv_len_prev_list},
    {"kv_len_next_list", &Lists::kv_len_next_list},
    {"cu_seqlens_q_prev", &Lists::cu_seqlens_q_prev},
    {"cu_seqlens_q_next", &Lists::cu_seqlens_q_next},
    {"q_start_prev", &Lists::q_start_prev},
    {"q_start_next", &Lists::q_start_next},
};
struct NumberField {
  const char* name;
  int64_t Lists::*number;
};
constexpr NumberField kNumberFields[] = {
    {"total_q_prev_tokens", &Lists::total_q_prev_tokens},
    {"total_q_next_tokens", &Lists::total_q_next_tokens},
    {"max_seqlen_q_prev", &Lists::max_seqlen_q_prev},
    {"max_seqlen_q_next", &Lists::max_seqlen_q_next},
};

}  // namespace

void StepRecord::add(const layout::BatchLayout& layout, int cp_rank) {
  if (num_steps_ == 0) {
    sequences_.resize(static_cast<size_t>(layout.num_sequences()));
    cp_ = layout.cp();
  }
  LH_CHECK(layout.cp() == cp_ && static_cast<size_t>(layout.num_sequences()) == sequences_.size(),
           "a step of cp {} and {} sequences after steps of cp {} and {}", layout.cp(),
           layout.num_sequences(), cp_, sequences_.size());
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const layout::SequenceExtent& extent = layout.sequences()[s];
    if (extent.extend == 0) continue;
    DumpSequence& known = sequences_[s];
    if (known.num_tokens == 0) known.first_position = extent.prefix;
    LH_CHECK(extent.prefix == known.first_position + known.num_tokens,
             "sequence {} goes on at {} after {} + {}", s, extent.prefix, known.first_position,
             known.num_tokens);
    known.num_tokens += extent.extend;
  }
  const layout::ContextParallelMetadata m = layout::make_metadata(layout, cp_rank);
  for (const layout::SequenceExtent& e : layout.sequences()) {
    values_["prefix_lens"].push_back(e.prefix);
    values_["extend_lens"].push_back(e.extend);
  }
  for (const ListField& field : kListFields) {
    const std::vector<int64_t>& list = m.*field.list;
    std::vector<int64_t>& all = values_[field.name];
    all.insert(all.end(), list.begin(), list.end());
  }
  for (const NumberField& field : kNumberFields) values_[field.name].push_back(m.*field.number);
  ++num_steps_;
}

// Every step has lists of the same lengths, so a field of all steps is one table.
void StepRecord::write(Hdf5File& file) const {
  if (num_steps_ == 0) return;
  for (const auto& [name, values] : values_) {
    const int64_t width = static_cast<int64_t>(values.size()) / num_steps_;
    if (width == 0) continue;
    const bool number = std::any_of(std::begin(kNumberFields), std::end(kNumberFields),
                                    [&](const NumberField& f) { return name == f.name; });
    const Shape shape = number ? Shape{num_steps_} : Shape{num_steps_, width};
    Hdf5Dataset dataset = file.create_dataset("/steps/" + name, DType::i64, shape, false);
    dataset.write_rows(0, num_steps_, values.data());
  }
}

}  // namespace longhaul::io
