#pragma once
// How many cores this rank has, and how the ranks of its host share them.
//
// Cores are physical: the hardware threads of one core count once, since what longhaul computes
// fills a core's arithmetic units with one thread.

#include <bitset>
#include <string>
#include <vector>

#include "comm/mpi_session.h"

namespace longhaul::comm {

using CoreSet = std::bitset<2048>;  // by the core's lowest hardware thread

// One host's view; pure, so that it can be tested.
struct CoreShares {
  std::vector<CoreSet> ranks;  // cores that each rank of this host may run on
  int self = 0;                // index of this rank
  CoreSet available;           // cores that the launcher could have given
  double quota_cores = 0;      // a container's limit for the whole host share; 0: none
  bool slurm = false;          // started by srun: its words in the advice

  // What the mask leaves this rank when each core is divided among those that share it, at least
  // one: the default of --threads.
  int default_threads() const;
  // One line when cores lie idle or threads exceed cores, with the option that helps; else empty.
  // `threads`: of this rank, and taken to be the same on the others of its host.
  std::string warning(int threads) const;
};

CoreSet cores_of_this_process();
// Collective over the session's ranks.
CoreShares gather_core_shares(MpiSession& session);

}  // namespace longhaul::comm
