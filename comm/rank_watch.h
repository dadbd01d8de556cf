#pragma once
// What a rank's operations tell the watchdog, and ask of it.

#include <cstdint>
#include <string>

#include "comm/operation.h"
#include "runtime/core/progress.h"

namespace longhaul::comm {

class RankWatch {
 public:
  virtual ~RankWatch() = default;
  virtual Progress& progress() = 0;
  // An operation begins on this rank. May throw (a test's fault, a stop by signal).
  virtual void begin_operation(const Fingerprint& operation) = 0;
  // The rank has nothing to do until the operation is complete.
  virtual void begin_wait(const Fingerprint& operation) = 0;
  virtual void end_wait() = 0;
  // Called again and again while waiting; `missing` is the world rank not yet heard from, or -1.
  // Throws Error(peer_lost) when the wait is hopeless, Error(stopped) when the job is to stop.
  virtual void check_wait(int missing) = 0;
  virtual std::string name_of(int world_rank) = 0;  // rank 2 (host n3)
};

}  // namespace longhaul::comm
