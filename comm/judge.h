#pragma once
// Who is to blame when the ranks do not get on: pure, so that it can be tested on paper cases.
//
// A rank is silent when its helper thread shows nothing (stopped, or its machine is gone), and
// hung when it computes and does not tick. A rank that waits for others is their victim. When all
// wait and nothing moves, those are to blame that others wait for and that are elsewhere.

#include <optional>
#include <string>
#include <vector>

#include "comm/rank_record.h"

namespace longhaul::comm {

struct Observation {
  RankBody body;
  std::string name;           // "rank 2 (host n3)"
  double silent_seconds = 0;  // no beat and no change of anything
  double idle_seconds = 0;    // no tick and no change of what it does
};

struct Verdict {
  std::vector<size_t> culprits;  // indices of observations; may be empty: nobody can be named
  std::string message;           // without "longhaul: " and without the consequence
};

struct JudgeOptions {
  double deadline_seconds = 60;
  // When all wait and nothing moves for this long, that is a verdict too. Infinite where the
  // observations are not enough to tell.
  double all_wait_seconds = 60;
  bool whole_job = true;  // the observations are all ranks of the job
};

std::optional<Verdict> judge(const std::vector<Observation>& ranks, const JudgeOptions& options);

}  // namespace longhaul::comm
