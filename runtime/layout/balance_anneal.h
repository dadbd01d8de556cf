#pragma once
// A random walk for the batches where a rank gets only a few tokens. Internal to the balanced
// layout.

#include <cstdint>

#include "runtime/layout/balance_state.h"

namespace longhaul::layout {

// Threshold accepting (Dueck and Scheuer 1990): borders shift and owners swap at random, a step
// that worsens the potential by less than a sinking threshold is taken too. The walk depends on
// nothing but the assignment, so it is the same on every rank. Leaves the assignment as it was
// unless it came nearer to the goal.
void anneal(Assignment& assignment, const Goal& goal, int64_t steps, uint64_t seed);

}  // namespace longhaul::layout
