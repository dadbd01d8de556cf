#pragma once
// The communicator of a program that runs alone.

#include <memory>

#include "comm/communicator.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

// Rank 0 of 1. `watch`, where given, must outlive it; without, nobody watches.
std::unique_ptr<Communicator> make_single_communicator(RankWatch* watch = nullptr);

}  // namespace longhaul::comm
