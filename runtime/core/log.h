#pragma once
// Logs go to stderr through spdlog, one line an event: "[longhaul 12:00:01 rank 3] warning: ...".
// Results go to stdout and never through here.

#include <spdlog/spdlog.h>

namespace longhaul {

// Call once, after the rank is known. Rank 0 logs at `info`, the others at `warn`; LONGHAUL_LOG
// (trace, debug, info, warn, error, off) overrides both.
void init_log(int rank, int num_ranks);

}  // namespace longhaul
