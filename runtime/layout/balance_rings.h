#pragma once
// Cuts one sequence into nested rings. Internal to the balanced layout.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/balance_state.h"

namespace longhaul::layout {

// What one rank should get of a sequence.
struct Share {
  int rank = 0;
  double area = 0;
  double tokens = 0;
  double token_cap = 0;  // more tokens than this break the goal
};

// Pieces in token order. The first share gets the outermost ring. Lengths are whole tokens, so the
// shares are met as nearly as a beam search over ring sizes finds; the sum always comes out.
std::vector<Piece> cut_rings(const SequenceExtent& sequence, std::span<const Share> shares,
                             const Goal& goal);

}  // namespace longhaul::layout
