#pragma once
// Which rank stores the KV of which tokens, over all steps so far: the same on every rank.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

// Consecutive positions stored in consecutive slots of one rank's share of one sequence.
struct KvRun {
  int64_t position = 0;  // absolute, of the first token
  int64_t length = 0;
  int64_t slot = 0;  // of the first token, in [0, tokens this rank stores of the sequence)
  bool operator==(const KvRun&) const = default;
};

class KvOwnership {
 public:
  KvOwnership(int cp, int num_sequences);

  // Books the new tokens of a step: slots are given in local row order (prev, then next).
  // Each sequence's prefix must equal what is booked already.
  void append(const BatchLayout& layout);

  int cp() const { return cp_; }
  int num_sequences() const { return num_sequences_; }
  std::span<const KvRun> runs(int cp_rank, int sequence) const;  // ascending positions
  int64_t num_tokens(int cp_rank, int sequence) const;           // stored by that rank
  int64_t length(int sequence) const;                            // over all ranks

 private:
  size_t at(int cp_rank, int sequence) const {
    return static_cast<size_t>(cp_rank) * static_cast<size_t>(num_sequences_) +
           static_cast<size_t>(sequence);
  }
  int cp_;
  int num_sequences_;
  std::vector<std::vector<KvRun>> runs_;  // [cp * num_sequences]
  std::vector<int64_t> num_tokens_;       // [cp * num_sequences]
  std::vector<int64_t> length_;           // [num_sequences]
};

}  // namespace longhaul::layout
