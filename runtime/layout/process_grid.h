#pragma once
// world = dp * cp * ulysses * tp ranks, tp fastest:
//   world_rank = ((dp_rank * cp + cp_rank) * ulysses + ulysses_rank) * tp + tp_rank

#include <cstdint>

namespace longhaul::layout {

struct ProcessGrid {
  int dp = 1, cp = 1, ulysses = 1, tp = 1;
  int world_rank = 0;

  int world_size() const { return dp * cp * ulysses * tp; }
  int tp_rank() const { return world_rank % tp; }
  int ulysses_rank() const { return world_rank / tp % ulysses; }
  int cp_rank() const { return world_rank / (tp * ulysses) % cp; }
  int dp_rank() const { return world_rank / (tp * ulysses * cp); }
};

// Degrees <= 0 mean "not given": dp, ulysses and tp default to 1, cp takes what they leave. Throws
// Error(usage) with the product when the degrees do not multiply to world_size.
ProcessGrid make_process_grid(int world_size, int world_rank, int dp, int cp, int ulysses, int tp);

}  // namespace longhaul::layout
