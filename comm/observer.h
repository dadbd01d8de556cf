#pragma once
// Follows the records of ranks over time: how long each has shown nothing.

#include <chrono>
#include <string>
#include <vector>

#include "comm/judge.h"
#include "comm/rank_record.h"

namespace longhaul::comm {

// What can be seen of a rank at one moment.
struct Sighting {
  RankBody body;
  uint64_t beats = 0;
  uint64_t ticks = 0;
};
Sighting sight(const RankRecord& record);

class RankObserver {
 public:
  using Clock = std::chrono::steady_clock;

  // `longest_step` caps the time that one look adds: a watcher that was itself kept from running
  // (a busy or suspended machine) must not take its own pause for the others'.
  RankObserver(std::string name, double longest_step_seconds)
      : longest_step_(longest_step_seconds) {
    observation_.name = std::move(name);
  }
  void look(const Sighting& sighting, Clock::time_point now);
  const Observation& observation() const { return observation_; }
  void set_name(std::string name) { observation_.name = std::move(name); }

 private:
  double longest_step_;
  bool first_ = true;
  Clock::time_point last_;
  Sighting seen_;
  Observation observation_;
};

}  // namespace longhaul::comm
