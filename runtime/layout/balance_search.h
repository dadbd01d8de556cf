#pragma once
// Improves an assignment by small moves. Internal to the balanced layout.

#include <cstdint>

#include "runtime/layout/balance_state.h"

namespace longhaul::layout {

// Moves borders, hands block ends to other ranks and swaps owners, always of the fullest rank that
// can still be helped, until the goal is met, no move helps, or `budget` moves were weighed.
void improve(Assignment& assignment, const Goal& goal, int64_t budget);

// Moves borders to the nearest multiple of `page` (absolute position) where neither imbalance grows
// beyond `limit` (max over mean) or what it is already.
void align_to_pages(Assignment& assignment, const Goal& goal, int64_t page, double limit);

}  // namespace longhaul::layout
