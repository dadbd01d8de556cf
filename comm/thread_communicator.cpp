#include "comm/thread_communicator.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "comm/fatal.h"
#include "comm/mailbox.h"
#include "comm/observer.h"
#include "comm/planned_communicator.h"
#include "comm/rank_reporter.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(10);

// What the ranks of one run_threads share.
struct Team {
  Team(int n, double timeout) : size(n), timeout_seconds(timeout), records(static_cast<size_t>(n)) {
    reporters.resize(static_cast<size_t>(n));
    for (int r = 0; r < n; ++r)
      observers.emplace_back(fmt::format("rank {}", r), std::max(0.1, timeout / 4));
  }

  void fail_with(int rank, std::exception_ptr error) {
    std::lock_guard lock(mutex);
    if (!first_error) {
      first_error = error;
      first_rank = rank;
    }
    failed.store(true, std::memory_order_release);
    mailbox.wake_all();
  }

  // The verdict, once there is one, is everybody's.
  void look() {
    if (timeout_seconds <= 0) return;
    std::lock_guard lock(mutex);
    const auto now = RankObserver::Clock::now();
    if (now - last_look < kLookEvery) return;
    last_look = now;
    std::vector<Observation> seen;
    for (size_t r = 0; r < records.size(); ++r) {
      if (reporters[r]) reporters[r]->beat();  // nobody else copies a rank's ticks
      observers[r].look(sight(records[r]), now);
      seen.push_back(observers[r].observation());
      seen.back().silent_seconds = 0;  // threads have no heartbeat of their own
    }
    if (!verdict.empty()) return;
    if (auto v = judge(seen, {timeout_seconds, timeout_seconds, true})) verdict = v->message;
  }

  const int size;
  const double timeout_seconds;
  Mailbox mailbox;
  std::vector<RankRecord> records;
  std::mutex mutex;
  std::vector<RankObserver> observers;
  std::vector<RankReporter*> reporters;  // null before and after the rank's work
  RankObserver::Clock::time_point last_look{};
  std::string verdict;
  std::atomic<bool> failed{false};
  std::exception_ptr first_error;
  int first_rank = -1;
};

class ThreadReporter final : public RankReporter {
 public:
  ThreadReporter(Team& team, int rank)
      : RankReporter(team.records[static_cast<size_t>(rank)], rank), team_(team), rank_(rank) {
    register_as(this);
  }
  ~ThreadReporter() override { register_as(nullptr); }

  void check_wait(int missing) override {
    RankReporter::check_wait(missing);
    team_.look();
    std::string verdict;
    {
      std::lock_guard lock(team_.mutex);
      verdict = team_.verdict;
    }
    if (!verdict.empty()) throw Error(ExitCode::peer_lost, verdict);
    if (team_.failed.load(std::memory_order_acquire))
      fail(ExitCode::peer_lost, "rank {} failed", team_.first_rank);
  }
  std::string name_of(int world_rank) override { return fmt::format("rank {}", world_rank); }

 private:
  void register_as(RankReporter* reporter) {
    std::lock_guard lock(team_.mutex);
    team_.reporters[static_cast<size_t>(rank_)] = reporter;
  }

  Team& team_;
  const int rank_;
};

class MailboxTransport final : public Transport {
 public:
  MailboxTransport(Mailbox& mailbox, std::vector<int> world_ranks, RankWatch& watch)
      : mailbox_(mailbox), world_ranks_(std::move(world_ranks)), watch_(watch) {}
  std::unique_ptr<Exchange> post(const Fingerprint& fingerprint, const Round& round) override {
    return mailbox_.post(fingerprint, round, world_ranks_, watch_);
  }
  void pause(int) override { mailbox_.wait_for_news(std::chrono::milliseconds(1)); }
  Mailbox& mailbox() { return mailbox_; }

 private:
  Mailbox& mailbox_;
  std::vector<int> world_ranks_;
  RankWatch& watch_;
};

void run_rank(Team& team, int rank, const std::function<void(Communicator&)>& body) {
  ThreadReporter reporter(team, rank);
  Engine engine;
  std::vector<int> world_ranks;
  for (int r = 0; r < team.size; ++r) world_ranks.push_back(r);
  PlannedCommunicator world(rank, world_ranks, 0,
                            std::make_unique<MailboxTransport>(team.mailbox, world_ranks, reporter),
                            engine, reporter);
  try {
    body(world);
  } catch (...) {
    team.fail_with(rank, std::current_exception());
  }
}

}  // namespace

void run_threads(int num_ranks, const std::function<void(Communicator& world)>& body,
                 const ThreadOptions& options) {
  LH_CHECK(num_ranks >= 1, "{} ranks", num_ranks);
  Team team(num_ranks, options.timeout_seconds);
  std::vector<std::thread> threads;
  for (int r = 0; r < num_ranks; ++r) threads.emplace_back([&, r] { run_rank(team, r, body); });
  for (std::thread& thread : threads) thread.join();
  if (!team.first_error) return;
  const Failure failure = explain(team.first_error);
  if (failure.message.find("rank ") != std::string::npos) std::rethrow_exception(team.first_error);
  throw Error(failure.code, fmt::format("rank {}: {}", team.first_rank, failure.message));
}

std::unique_ptr<Communicator> split_threads(Communicator& world, int color, int key) {
  auto* parent = dynamic_cast<PlannedCommunicator*>(&world);
  auto* transport = parent ? dynamic_cast<MailboxTransport*>(&parent->transport()) : nullptr;
  LH_CHECK(transport, "split_threads of a communicator that run_threads did not make");
  const SplitMember mine{color, key};
  std::vector<SplitMember> all(static_cast<size_t>(world.size()));
  const std::vector<int64_t> sizes(all.size(), static_cast<int64_t>(sizeof mine));
  const uint64_t sequence = parent->sequence();
  world.all_gather_v(&mine, sizeof mine, all.data(), sizes, {"split"});
  if (color < 0) return nullptr;
  std::vector<int> world_ranks;
  int rank = -1;
  for (int member : split_members(all, color)) {
    if (member == world.rank()) rank = static_cast<int>(world_ranks.size());
    world_ranks.push_back(parent->world_rank(member));
  }
  return std::make_unique<PlannedCommunicator>(
      rank, world_ranks, split_group_id(parent->group(), sequence, color),
      std::make_unique<MailboxTransport>(transport->mailbox(), world_ranks, parent->watch()),
      parent->engine(), parent->watch());
}

}  // namespace longhaul::comm
