#include "comm/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>

namespace longhaul::comm {
namespace {

bool waits(const Observation& o) {
  return o.body.state == RankState::waiting || o.body.state == RankState::in_init ||
         o.body.state == RankState::in_finalize || o.body.state == RankState::finalized;
}
bool gone(const Observation& o) {
  return o.body.state == RankState::ended;
}
bool failed(const Observation& o) {
  return o.body.state == RankState::failed;
}

bool same_wait(const RankBody& a, const RankBody& b) {
  return a.state == b.state &&
         (a.state != RankState::waiting ||
          (a.wait.group == b.wait.group && a.wait.sequence == b.wait.sequence));
}

const Observation* of_rank(const std::vector<Observation>& ranks, int world_rank) {
  for (const Observation& o : ranks)
    if (world_rank >= 0 && o.body.world_rank == world_rank) return &o;
  return nullptr;
}

std::string deadline_text(double seconds) {
  return fmt::format("(deadline --timeout {:g})", seconds);
}

std::string victims_text(const std::vector<Observation>& ranks, const Observation& culprit) {
  for (const Observation& o : ranks)
    if (&o != &culprit && o.body.state == RankState::waiting &&
        o.body.missing == culprit.body.world_rank && o.body.missing >= 0)
      return fmt::format("; {} waits for it in {}", o.name, o.body.place());
  return "";
}

Verdict blame(const std::vector<Observation>& ranks, const std::vector<size_t>& culprits,
              const std::string& what) {
  Verdict verdict{culprits, ""};
  const Observation& first = ranks[culprits.front()];
  std::string names = first.name;
  constexpr size_t kNamed = 4;
  for (size_t i = 1; i < std::min(culprits.size(), kNamed); ++i)
    names += ", " + ranks[culprits[i]].name;
  if (culprits.size() > kNamed) names += fmt::format(" and {} more", culprits.size() - kNamed);
  verdict.message = fmt::format("{} {}", names, what);
  verdict.message += first.body.state == RankState::absent
                         ? std::string(" and has not started")
                         : fmt::format(" in {}", first.body.place());
  verdict.message += victims_text(ranks, first);
  return verdict;
}

// Everybody waits: those that somebody waits for and that wait elsewhere.
Verdict blame_for_deadlock(const std::vector<Observation>& ranks, const JudgeOptions& options,
                           double seconds) {
  const double deadline = options.deadline_seconds;
  std::vector<size_t> culprits;
  const Observation* victim = nullptr;
  for (const Observation& o : ranks) {
    const Observation* other =
        o.body.state == RankState::waiting ? of_rank(ranks, o.body.missing) : nullptr;
    if (!other || same_wait(o.body, other->body)) continue;
    // Behind in the same communicator, or ended, is plain guilt; otherwise they cross each other.
    const auto index = static_cast<size_t>(other - ranks.data());
    if (std::find(culprits.begin(), culprits.end(), index) == culprits.end())
      culprits.push_back(index);
    if (!victim) victim = &o;
  }
  if (culprits.empty()) {
    const auto waiting = std::find_if(ranks.begin(), ranks.end(), waits);
    const Observation& first = waiting == ranks.end() ? ranks.front() : *waiting;
    return {{},
            fmt::format("all ranks {}wait and nothing moves for {:.1f} s {}, {} in {}{}",
                        options.whole_job ? "" : "of this host ", seconds, deadline_text(deadline),
                        first.name, first.body.place(),
                        options.whole_job ? "" : ": a rank of another host is to blame")};
  }
  const auto ended = [&](size_t i) {
    return ranks[i].body.state == RankState::in_finalize ||
           ranks[i].body.state == RankState::finalized || gone(ranks[i]) ||
           std::strcmp(ranks[i].body.wait.name, kEndOfRun) == 0;
  };
  const auto behind = [&](size_t i) {
    const Fingerprint& w = ranks[i].body.wait;
    return std::any_of(ranks.begin(), ranks.end(), [&](const Observation& o) {
      return o.body.state == RankState::waiting && o.body.missing == ranks[i].body.world_rank &&
             o.body.wait.group == w.group && w.sequence < o.body.wait.sequence;
    });
  };
  for (auto guilty : {std::function<bool(size_t)>(ended), std::function<bool(size_t)>(behind)}) {
    if (!std::any_of(culprits.begin(), culprits.end(), guilty)) continue;
    std::erase_if(culprits, [&](size_t i) { return !guilty(i); });
    break;
  }
  const Observation& first = ranks[culprits.front()];
  return {culprits,
          fmt::format(
              "{} did not come to the operation in which {} waits ({}) for {:.1f} s {}: it {} {}",
              first.name, victim->name, victim->body.wait.to_string(), seconds,
              deadline_text(deadline), gone(first) ? "ended in" : "waits in",
              first.body.state == RankState::waiting ? first.body.wait.to_string()
                                                     : first.body.place())};
}

}  // namespace

std::optional<Verdict> judge(const std::vector<Observation>& ranks, const JudgeOptions& options) {
  const double deadline = options.deadline_seconds;
  if (ranks.empty()) return std::nullopt;
  std::vector<size_t> silent, hung;
  bool all_wait = true, anybody_in = false, reporting = false;
  double shortest = 1e300;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const Observation& o = ranks[i];
    if (gone(o)) continue;
    anybody_in = true;
    shortest = std::min(shortest, o.idle_seconds);
    reporting |= failed(o);
    if (!waits(o)) all_wait = false;
    if (o.silent_seconds >= deadline)
      silent.push_back(i);
    else if (o.body.state == RankState::computing && o.idle_seconds >= deadline)
      hung.push_back(i);
  }
  if (!silent.empty())
    return blame(ranks, silent,
                 fmt::format("shows no sign of life for {:.1f} s {}",
                             ranks[silent.front()].silent_seconds, deadline_text(deadline)));
  if (reporting) return std::nullopt;  // that rank ends the job, with its own error
  if (!hung.empty())
    return blame(ranks, hung,
                 fmt::format("makes no progress for {:.1f} s {}", ranks[hung.front()].idle_seconds,
                             deadline_text(deadline)));
  if (anybody_in && all_wait && shortest >= options.all_wait_seconds)
    return blame_for_deadlock(ranks, options, shortest);
  return std::nullopt;
}

}  // namespace longhaul::comm
