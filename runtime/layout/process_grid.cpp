#include "runtime/layout/process_grid.h"

#include "runtime/core/check.h"

namespace longhaul::layout {

ProcessGrid make_process_grid(int world_size, int world_rank, int dp, int cp, int ulysses, int tp) {
  LH_CHECK(world_size >= 1 && world_rank >= 0 && world_rank < world_size, "rank {} of {}",
           world_rank, world_size);
  ProcessGrid grid;
  grid.dp = dp > 0 ? dp : 1;
  grid.ulysses = ulysses > 0 ? ulysses : 1;
  grid.tp = tp > 0 ? tp : 1;
  grid.world_rank = world_rank;
  auto times = [](int64_t product, int degree) {  // saturates far above any number of ranks
    return product > (int64_t{1} << 31) ? product : product * degree;
  };
  const int64_t others = times(times(grid.dp, grid.ulysses), grid.tp);
  if (cp > 0) {
    grid.cp = cp;
    const int64_t product = times(others, cp);
    if (product != world_size)
      fail(
          ExitCode::usage,
          "dp {} x cp {} x ulysses {} x tp {} is {} ranks, but {} were started: start {} or change "
          "the degrees",
          grid.dp, grid.cp, grid.ulysses, grid.tp, product, world_size, product);
  } else {
    if (others > world_size || world_size % others != 0)
      fail(ExitCode::usage,
           "dp {} x ulysses {} x tp {} is {}, which does not divide the {} ranks started: start a "
           "multiple of {} or change the degrees",
           grid.dp, grid.ulysses, grid.tp, others, world_size, others);
    grid.cp = static_cast<int>(world_size / others);
  }
  return grid;
}

}  // namespace longhaul::layout
