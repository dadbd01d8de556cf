#include "comm/judge.h"

#include <gtest/gtest.h>

#include <cstring>

#include "comm/observer.h"

namespace longhaul::comm {
namespace {

constexpr double kDeadline = 10;

Observation rank_in(int rank, RankState state, double idle, double silent = 0) {
  Observation o;
  o.body.world_rank = rank;
  o.body.state = state;
  std::strcpy(o.body.phase, "prefill");
  std::strcpy(o.body.operation, "attention");
  o.body.layer = 7;
  o.name = "rank " + std::to_string(rank) + " (host n" + std::to_string(rank) + ")";
  o.idle_seconds = idle;
  o.silent_seconds = silent;
  return o;
}

Observation waiting(int rank, int missing, uint64_t sequence, const char* name, double idle,
                    uint64_t group = 0) {
  Observation o = rank_in(rank, RankState::waiting, idle);
  o.body.missing = missing;
  o.body.wait.group = group;
  o.body.wait.sequence = sequence;
  o.body.wait.layer = 7;
  std::strcpy(o.body.wait.name, name);
  return o;
}

std::optional<Verdict> verdict_on(const std::vector<Observation>& ranks) {
  return judge(ranks, {kDeadline, kDeadline, true});
}

testing::AssertionResult says(const Verdict& verdict, const std::string& text) {
  if (verdict.message.find(text) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << verdict.message;
}

TEST(Judge, NobodyWhileThingsMove) {
  EXPECT_FALSE(
      verdict_on({rank_in(0, RankState::computing, 9.9, 9.9), waiting(1, 0, 3, "kv", 50)}));
  EXPECT_FALSE(verdict_on({}));
  // One still computes, however long the others wait.
  EXPECT_FALSE(verdict_on({waiting(0, 2, 3, "kv", 99), waiting(1, 2, 3, "kv", 99),
                           rank_in(2, RankState::computing, 1)}));
}

TEST(Judge, SilentRankIsNamedNotItsVictims) {
  const auto v = verdict_on({waiting(0, 2, 3, "kv", 12), waiting(1, 2, 3, "kv", 12),
                             rank_in(2, RankState::computing, 10.5, 10.5)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{2});
  EXPECT_TRUE(says(*v,
                   "rank 2 (host n2) shows no sign of life for 10.5 s (deadline --timeout 10) in "
                   "phase prefill, attention, layer 7; rank 0 (host n0) waits for it in phase "
                   "prefill, kv, layer 7"));
}

TEST(Judge, SilentRankThatWaitedIsStillNamed) {
  Observation stopped = waiting(1, 0, 3, "kv", 11);
  stopped.silent_seconds = 11;
  const auto v = verdict_on({rank_in(0, RankState::computing, 0), stopped});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
}

TEST(Judge, HungRankIsNamed) {
  const auto v = verdict_on({waiting(0, 1, 3, "kv", 12), rank_in(1, RankState::computing, 10.1)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
  EXPECT_TRUE(says(*v, "rank 1 (host n1) makes no progress for 10.1 s"));
}

TEST(Judge, SilenceComesBeforeHanging) {
  // The hung one may well wait, in its own way, for the stopped one.
  const auto v =
      verdict_on({rank_in(0, RankState::computing, 12), rank_in(1, RankState::computing, 12, 12)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
}

TEST(Judge, RankThatNeverCameIsNamed) {
  Observation absent = rank_in(1, RankState::absent, 11, 11);
  absent.body = RankBody{};
  absent.name = "rank 1 (host n1)";
  const auto v = verdict_on({rank_in(0, RankState::in_init, 11), absent});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
  EXPECT_TRUE(says(*v, "has not started"));
}

TEST(Judge, AllWaitBlamesTheOneThatIsBehind) {
  const auto v = verdict_on(
      {waiting(0, 1, 5, "kv", 11), waiting(1, 0, 4, "step", 12), waiting(2, 1, 5, "kv", 10.2)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
  EXPECT_TRUE(says(*v, "rank 1 (host n1) did not come to the operation in which rank 0"));
  EXPECT_TRUE(says(*v, "step, layer 7"));
}

TEST(Judge, AllWaitNeedsTheDeadlineOfEveryRank) {
  EXPECT_FALSE(verdict_on({waiting(0, 1, 5, "kv", 30), waiting(1, 0, 4, "step", 9.9)}));
}

TEST(Judge, AllWaitBlamesTheOneThatEndedEarly) {
  // Its sequence is ahead, but it is at the end.
  const auto v = verdict_on(
      {waiting(0, 1, 5, "kv", 11), waiting(1, 2, 9, kEndOfRun, 12), waiting(2, 1, 5, "kv", 11)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits, std::vector<size_t>{1});
  const auto gone = verdict_on({waiting(0, 1, 5, "kv", 11), rank_in(1, RankState::ended, 3)});
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->culprits, std::vector<size_t>{1});
  EXPECT_TRUE(says(*gone, "ended in"));
}

TEST(Judge, CrossedGroupsNameBoth) {
  const auto v =
      verdict_on({waiting(0, 1, 5, "world op", 11, 0), waiting(1, 0, 2, "cp op", 11, 77)});
  ASSERT_TRUE(v);
  EXPECT_EQ(v->culprits.size(), 2u);
}

TEST(Judge, SameOperationEverywhereBlamesNobody) {
  const auto v = verdict_on({waiting(0, 1, 5, "kv", 11), waiting(1, 0, 5, "kv", 11)});
  ASSERT_TRUE(v);
  EXPECT_TRUE(v->culprits.empty());
  EXPECT_TRUE(says(*v, "all ranks wait and nothing moves"));
}

TEST(Judge, ReportingRankIsLeftToReport) {
  EXPECT_FALSE(verdict_on({waiting(0, 1, 5, "kv", 30), rank_in(1, RankState::failed, 30)}));
  EXPECT_TRUE(verdict_on({waiting(0, 1, 5, "kv", 30), rank_in(1, RankState::failed, 30, 30)}));
}

TEST(RankObserver, TimeRunsFromTheLastSign) {
  RankObserver observer("rank 0", 1.0);
  RankObserver::Clock::time_point now{};
  Sighting seen;
  seen.body.state = RankState::computing;
  auto after = [&](int ms) { return now += std::chrono::milliseconds(ms); };
  observer.look(seen, after(0));
  observer.look(seen, after(500));
  EXPECT_DOUBLE_EQ(observer.observation().silent_seconds, 0.5);
  seen.beats = 1;
  observer.look(seen, after(500));
  EXPECT_DOUBLE_EQ(observer.observation().silent_seconds, 0);
  EXPECT_DOUBLE_EQ(observer.observation().idle_seconds, 1.0);
  seen.ticks = 1;  // a tick alone is a sign of life as well
  observer.look(seen, after(700));
  EXPECT_DOUBLE_EQ(observer.observation().idle_seconds, 0);
  EXPECT_DOUBLE_EQ(observer.observation().silent_seconds, 0);
}

TEST(RankObserver, ItsOwnPauseIsNotTheOthers) {
  RankObserver observer("rank 0", 1.0);
  RankObserver::Clock::time_point now{};
  observer.look({}, now);
  observer.look({}, now + std::chrono::hours(1));  // the machine was suspended
  EXPECT_DOUBLE_EQ(observer.observation().silent_seconds, 1.0);
}

TEST(RankRecord, RoundTrip) {
  RankRecord record{};
  EXPECT_EQ(record.read().state, RankState::absent);
  const RankBody body = waiting(3, 1, 5, "kv", 0).body;
  record.write(body);
  EXPECT_EQ(record.read().world_rank, 3);
  EXPECT_EQ(record.read().place(), "phase prefill, kv, layer 7");
}

}  // namespace
}  // namespace longhaul::comm
