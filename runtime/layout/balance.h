#pragma once
// The `balanced` layout's solver: pure arithmetic on block borders.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

// Blocks [cp, 2, num_sequences] that cover every sequence's new tokens once, prev below next.
std::vector<Block> balanced_blocks(int cp, std::span<const SequenceExtent> sequences,
                                   const RankLoad* load);

}  // namespace longhaul::layout
