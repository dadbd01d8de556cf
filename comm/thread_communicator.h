#pragma once
// Ranks that are threads of one process: the same operations, deadlines and errors as under MPI,
// for tests and tools.

#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace longhaul::comm {

struct ThreadOptions {
  double timeout_seconds = 60;
};

// Runs body(communicator) on num_ranks threads, rank r on the r-th, and joins them. When ranks
// throw, the others' operations fail too, and the first error is rethrown here, prefixed with its
// rank where it does not name one itself. A rank that neither ticks, nor starts an operation, nor
// waits for the deadline makes the waiting ones throw Error(peer_lost); it is still joined.
void run_threads(int num_ranks, const std::function<void(Communicator& world)>& body,
                 const ThreadOptions& options = {});

// Collective over the world that run_threads gave: the ranks with equal color, ordered by (key,
// rank), make a group. Returns null for color < 0. The group must not outlive body().
std::unique_ptr<Communicator> split_threads(Communicator& world, int color, int key);

}  // namespace longhaul::comm
