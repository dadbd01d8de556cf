#pragma once
// The `balanced` layout's solver: pure arithmetic on block borders, the same on every rank.
//
// Each rank may hold at most two contiguous blocks of a sequence. The solver aims at equal causal
// area (query x KV pairs, prefix counted) and, second, equal tokens. Several constructions are
// tried in a fixed order, from the one that cuts the fewest sequences to the one that cuts all, and
// the first that is good enough is taken, since a sequence that stays whole moves no KV:
//   1. Sequences below a fraction of a rank's share go whole to the least loaded rank.
//   2. The rest is shared out so that each rank gets its missing area and its missing tokens from
//      few sequences: long ones mixed with short ones (balance_shares.h).
//   3. A shared sequence is cut into nested rings, one a rank: a block at the low end of what is
//      left and one at the high end, sized to meet the rank's share (balance_rings.h). zigzag is
//      the case of equal rings.
//   4. Local search on borders and owners (balance_search.h), then borders move to KV pages.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

// Blocks [cp, 2, num_sequences] that cover every sequence's new tokens once, prev below next. An
// only block of a rank is its prev; empty blocks stand at the sequence's end. `load` may be null;
// it decides which rank takes which share, never the shares.
std::vector<Block> balanced_blocks(int cp, std::span<const SequenceExtent> sequences,
                                   const RankLoad* load);

}  // namespace longhaul::layout
