#include "runtime/layout/kv_ownership.h"

#include "runtime/core/check.h"

namespace longhaul::layout {

KvOwnership::KvOwnership(int cp, int num_sequences) : cp_(cp), num_sequences_(num_sequences) {
  LH_CHECK(cp >= 1 && num_sequences >= 0, "cp {}, {} sequences", cp, num_sequences);
  const size_t count = static_cast<size_t>(cp) * static_cast<size_t>(num_sequences);
  runs_.resize(count);
  num_tokens_.resize(count, 0);
  length_.resize(static_cast<size_t>(num_sequences), 0);
}

void KvOwnership::append(const BatchLayout& layout) {
  LH_CHECK(layout.cp() == cp_ && layout.num_sequences() == num_sequences_,
           "layout of cp {} and {} sequences, ownership of cp {} and {}", layout.cp(),
           layout.num_sequences(), cp_, num_sequences_);
  for (int s = 0; s < num_sequences_; ++s) {
    const SequenceExtent& sequence = layout.sequences()[static_cast<size_t>(s)];
    int64_t& booked = length_[static_cast<size_t>(s)];
    LH_CHECK(sequence.prefix == booked, "sequence {}: prefix {}, but {} tokens are booked", s,
             sequence.prefix, booked);
    booked += sequence.extend;
  }
  for (int r = 0; r < cp_; ++r) {
    for (int s = 0; s < num_sequences_; ++s) {
      std::vector<KvRun>& runs = runs_[at(r, s)];
      int64_t& stored = num_tokens_[at(r, s)];
      for (Half half : {Half::prev, Half::next}) {
        const Block& block = layout.block(r, half, s);
        if (block.length == 0) continue;
        // Slots only grow at the end, so neighbours in position are neighbours in slot too.
        if (!runs.empty() && runs.back().position + runs.back().length == block.start)
          runs.back().length += block.length;
        else
          runs.push_back({block.start, block.length, stored});
        stored += block.length;
      }
    }
  }
}

std::span<const KvRun> KvOwnership::runs(int cp_rank, int sequence) const {
  return runs_[at(cp_rank, sequence)];
}

int64_t KvOwnership::num_tokens(int cp_rank, int sequence) const {
  return num_tokens_[at(cp_rank, sequence)];
}

int64_t KvOwnership::length(int sequence) const {
  return length_[static_cast<size_t>(sequence)];
}

}  // namespace longhaul::layout
