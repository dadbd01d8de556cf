#pragma once
// The error for two ranks that are not in the same operation.

#include <string>

#include "comm/operation.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

// `theirs` came from a peer where `ours` was expected. Empty when they agree. The error is
// peer_lost where one of the two ended early, and internal (a defect) otherwise.
void check_agreement(const Fingerprint& ours, const Fingerprint& theirs, RankWatch& watch);

}  // namespace longhaul::comm
