#pragma once
// How far to cut the keys of long tiles so that all multiprocessors have work.

#include <vector>

namespace longhaul::attention::cuda::sm90 {

// In key blocks: what a tile costs beside its keys (queries, the first block's softmax, the
// output), and what a part costs more than a whole tile (its result goes through memory).
inline constexpr double kTileOverhead = 1.5;
inline constexpr double kPartOverhead = 0.7;

inline int number_of_parts(int blocks, int longest) {
  return blocks <= longest ? 1 : (blocks + longest - 1) / longest;
}

// The number of key blocks above which a tile is cut, given the blocks of each tile and how many
// heads visit each; the largest count where cutting does not pay. Up to `most_joined` parts are
// joined on the spot, more of them by a second kernel.
int longest_part(std::vector<int> blocks, int units, int multiprocessors, int most_joined);

}  // namespace longhaul::attention::cuda::sm90
