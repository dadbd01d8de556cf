#include "comm/mismatch.h"

#include <cstring>

#include "runtime/core/check.h"

namespace longhaul::comm {

void check_agreement(const Fingerprint& ours, const Fingerprint& theirs, RankWatch& watch) {
  if (ours.same_operation(theirs)) {
    if (ours.bytes == theirs.bytes) return;
    throw Error(ExitCode::internal,
                fmt::format("{} sends {} {} bytes in {} where {} are expected",
                            watch.name_of(theirs.world_rank), watch.name_of(ours.world_rank),
                            theirs.bytes, ours.to_string(), ours.bytes),
                __FILE__, __LINE__);
  }
  const bool we_ended = std::strcmp(ours.name, kEndOfRun) == 0;
  const bool they_ended = std::strcmp(theirs.name, kEndOfRun) == 0;
  if (we_ended != they_ended) {
    const Fingerprint& ended = we_ended ? ours : theirs;
    const Fingerprint& left = we_ended ? theirs : ours;
    fail(ExitCode::peer_lost, "{} ended early, while {} is in {}", watch.name_of(ended.world_rank),
         watch.name_of(left.world_rank), left.to_string());
  }
  // The same text on both sides: the lower rank first.
  const bool swap = theirs.world_rank < ours.world_rank;
  const Fingerprint& a = swap ? theirs : ours;
  const Fingerprint& b = swap ? ours : theirs;
  throw Error(ExitCode::internal,
              fmt::format("ranks disagree on what comes next: {} is in {} but {} is in {}",
                          watch.name_of(a.world_rank), a.to_string(), watch.name_of(b.world_rank),
                          b.to_string()),
              __FILE__, __LINE__);
}

}  // namespace longhaul::comm
