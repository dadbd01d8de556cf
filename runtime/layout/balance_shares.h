#pragma once
// Constructions of an assignment. Internal to the balanced layout.

#include <cstdint>

#include "runtime/layout/balance_state.h"

namespace longhaul::layout {

// Whole sequences up to `whole_below` of a rank's share, the rest shared out over few ranks each.
void assign_sparsely(Assignment& assignment, const Goal& goal, double whole_below);

// Every sequence over all ranks; each evens out the rounding of those before.
void assign_evenly(Assignment& assignment, const Goal& goal);

// Token by token, the largest first, to the least loaded rank: for batches of few tokens a rank.
void assign_single_tokens(Assignment& assignment, const Goal& goal);

// zigzag's blocks, for the search to start from.
void assign_zigzag(Assignment& assignment);

// The larger of the parts of a rank's area and tokens that a whole sequence takes.
double fill_of(const SequenceExtent& sequence, const Goal& goal);

}  // namespace longhaul::layout
