#include "runtime/layout/balance.h"

#include <algorithm>
#include <numeric>

#include "runtime/core/check.h"

namespace longhaul::layout {

std::vector<Block> balanced_blocks(int cp, std::span<const SequenceExtent> sequences,
                                   const RankLoad* load) {
  const size_t ranks = static_cast<size_t>(cp), bs = sequences.size();
  std::vector<Block> blocks(ranks * 2 * bs);
  std::vector<double> area(ranks, 0);
  std::vector<int64_t> tokens(ranks, 0);
  std::vector<size_t> order(bs);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return Block{sequences[a].prefix, sequences[a].extend}.area() >
           Block{sequences[b].prefix, sequences[b].extend}.area();
  });
  std::vector<size_t> by_load(ranks);
  for (size_t s : order) {
    const SequenceExtent& sequence = sequences[s];
    const int64_t end = sequence.prefix + sequence.extend, n = 2 * cp;
    for (size_t i = 0; i < 2 * ranks; ++i) blocks[i * bs + s] = {end, 0};
    std::iota(by_load.begin(), by_load.end(), size_t{0});
    std::stable_sort(by_load.begin(), by_load.end(), [&](size_t a, size_t b) {
      if (area[a] != area[b]) return area[a] < area[b];
      if (tokens[a] != tokens[b]) return tokens[a] < tokens[b];
      return load != nullptr && load->tokens[a] < load->tokens[b];
    });
    int64_t position = sequence.prefix;
    for (int64_t i = 0; i < n; ++i) {
      const bool whole = sequence.extend < n;
      const size_t rank = by_load[static_cast<size_t>(i < cp ? i : n - 1 - i)];
      const size_t half = i < cp ? 0 : 1;
      const int64_t length = whole ? (i == 0 ? sequence.extend : 0)
                                   : sequence.extend / n + (i < sequence.extend % n ? 1 : 0);
      blocks[(rank * 2 + half) * bs + s] = {length > 0 ? position : end, length};
      area[rank] += Block{position, length}.area();
      tokens[rank] += length;
      position += length;
    }
  }
  return blocks;
}

}  // namespace longhaul::layout
