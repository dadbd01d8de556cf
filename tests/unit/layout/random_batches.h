#pragma once
// Random ragged batches for the layout tests: mostly odd, often shorter than 2*cp, some empty.

#include <fmt/format.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

class RandomBatches {
 public:
  explicit RandomBatches(uint64_t seed) : engine_(seed) {}

  int64_t between(int64_t low, int64_t high) {  // both included
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  int cp() {
    static constexpr int kUsual[] = {1, 2, 3, 4, 5, 7, 8, 16, 64};
    return kUsual[between(0, 8)];
  }
  LayoutKind kind() { return static_cast<LayoutKind>(between(0, 2)); }
  // Lengths of very different sizes: a power of two picks the scale.
  int64_t length(int64_t most_bits) { return between(0, int64_t{1} << between(0, most_bits)); }
  std::vector<SequenceExtent> batch(int most_sequences, int64_t most_bits) {
    std::vector<SequenceExtent> sequences(static_cast<size_t>(between(0, most_sequences)));
    const int64_t prefixes = between(0, 2);  // none, some, all
    for (SequenceExtent& s : sequences) {
      s.extend = length(most_bits);
      if (prefixes == 2 || (prefixes == 1 && between(0, 1) == 1)) s.prefix = length(most_bits + 4);
    }
    return sequences;
  }

 private:
  std::mt19937_64 engine_;
};

inline std::string describe(LayoutKind kind, int cp, const std::vector<SequenceExtent>& batch) {
  std::string text = fmt::format("{} cp {}:", layout_name(kind), cp);
  for (const SequenceExtent& s : batch) text += fmt::format(" {}+{}", s.prefix, s.extend);
  return text;
}

}  // namespace longhaul::layout
