#include "comm/watchdog.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>

#include "comm/judge.h"
#include "comm/stop_signals.h"
#include "runtime/core/check.h"
#include "runtime/core/temporaries.h"

namespace longhaul::comm {
namespace {

using Seconds = std::chrono::duration<double>;
// See "how the time runs" in the header.
constexpr double kFartherSeconds = 3.0;
constexpr double kLaterLeaderSeconds = 1.5;
constexpr double kUnheardSeconds = 1.5;
constexpr double kUnheardLaterSeconds = 2.5;
constexpr double kMpiSeconds = 30.0;   // MPI_Init and MPI_Finalize with every rank in them, here
constexpr double kInitSeconds = 10.0;  // MPI_Init over several hosts: slow is not hung
constexpr double kStopSeconds = 10.0;  // from a signal to stop until a rank must be at an end

double beat_seconds(double deadline) {
  return deadline > 0 ? std::clamp(deadline / 20, 0.02, 0.2) : 0.2;
}

bool process_gone(int pid) {
  if (kill(pid, 0) != 0) return errno == ESRCH;
  // Dead but not yet reaped: state Z behind the name in parentheses.
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return false;
  const size_t name_end = line.rfind(") ");
  return name_end != std::string::npos && (line[name_end + 2] == 'Z' || line[name_end + 2] == 'X');
}

}  // namespace

Watchdog::Watchdog(HostTable& table, RankReporter& reporter, JobEnd& end, Options options)
    : table_(table), reporter_(reporter), end_(end), options_(std::move(options)) {
  for (int slot = 0; slot < table_.slots(); ++slot)
    local_.emplace_back("", std::max(0.1, options_.deadline_seconds / 4));
  thread_ = std::thread([this] { run(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::kick() {
  {
    std::lock_guard lock(mutex_);
    kicked_ = true;
  }
  wake_.notify_all();
}

void Watchdog::set_world(const std::vector<std::string>& names, int num_hosts,
                         std::unique_ptr<HostLinks> links) {
  std::lock_guard lock(mutex_);
  options_.launcher.size = static_cast<int>(names.size());
  num_hosts_ = num_hosts;
  links_ = std::move(links);
  end_.set_several_hosts(num_hosts > 1);
  remote_.clear();
  if (!links_) return;
  for (const std::string& name : names)
    remote_.emplace_back(name, std::max(0.1, options_.deadline_seconds / 4));
}

void Watchdog::close_links() {
  std::lock_guard lock(mutex_);
  links_closed_ = true;
  end_.set_several_hosts(false);
  if (!links_) return;
  const double patience = options_.deadline_seconds > 0 ? options_.deadline_seconds : 60;
  // The last word must be up to date: the others may wait to hear that all have failed alike.
  const HostLinks::News news{stop_signal(), static_cast<int32_t>(table_.header().ending.load())};
  while (!links_->beat(sight_all(), news))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (!links_->close(patience + kLaterLeaderSeconds))
    end_.end(static_cast<int>(ExitCode::peer_lost),
             fmt::format("a leader of another host did not answer at the end of the run for {:g} s",
                         patience));
  links_.reset();
}

std::string Watchdog::consequence() const {
  const int size = options_.launcher.size;
  return size > 0 ? fmt::format("; ending all {} ranks", size) : std::string("; ending the job");
}

std::string Watchdog::name_of_slot(int slot, const RankBody& body) const {
  int rank = body.state == RankState::absent ? -1 : body.world_rank;
  if (rank < 0 && options_.launcher.size == table_.slots()) rank = slot;
  return rank >= 0 ? fmt::format("rank {} (host {})", rank, options_.host)
                   : fmt::format("local rank {} (host {})", slot, options_.host);
}

std::string Watchdog::own_name() const {
  return name_of_slot(table_.self(), reporter_.body());
}

std::optional<std::string> Watchdog::dead_in_slot(int slot) const {
  const RankBody body = table_.record(slot).read();
  if (slot == table_.self() || body.state == RankState::absent || body.state == RankState::ended ||
      body.failure_code != 0 || body.pid <= 0 || body.pid_namespace == 0 ||
      body.pid_namespace != table_.pid_namespace())
    return std::nullopt;
  if (!process_gone(body.pid)) return std::nullopt;
  // It may have ended properly between the two looks.
  if (table_.record(slot).read().state == RankState::ended) return std::nullopt;
  return fmt::format("{} is gone: its process ended in {}", name_of_slot(slot, body), body.place());
}

std::optional<std::string> Watchdog::find_dead() {
  for (int slot = 0; slot < table_.slots(); ++slot)
    if (auto dead = dead_in_slot(slot)) return dead;
  return std::nullopt;
}

void Watchdog::run() {
  const auto period = Seconds(beat_seconds(options_.deadline_seconds));
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto now = RankObserver::Clock::now();
    beat(now);
    if (stop_signal() != 0 && options_.launcher.launched) {
      if (!stop_since_) stop_since_ = now;
      if (Seconds(now - *stop_since_).count() > kStopSeconds)
        end_.end(static_cast<int>(ExitCode::stopped),
                 fmt::format("stopped by {}", signal_name(stop_signal())));
    }
    wake_.wait_for(lock, period, [&] { return stopping_ || kicked_; });
    kicked_ = false;
  }
}

void Watchdog::beat(RankObserver::Clock::time_point now) {
  reporter_.beat();
  if (const int signal = table_.header().stop_signal.load()) request_stop(signal);
  const std::vector<Sighting> local = sight_all();
  if (links_ && !links_closed_) exchange(local);
  if (table_.header().ending.load() != 0) return;  // somebody has spoken
  // A neighbour and, in turn, all others: one look costs a system call or two.
  next_slot_ = (next_slot_ + 1) % table_.slots();
  auto dead = dead_in_slot((table_.self() + 1) % table_.slots());
  if (!dead) dead = dead_in_slot(next_slot_);
  if (dead) {
    // The launcher has seen it too, and knows its exit status: give it the time to act on that.
    if (table_.claim_ending(static_cast<int>(ExitCode::peer_lost))) {
      print_line(*dead + consequence());
      if (links_ && !links_closed_) exchange(local);
      end_.follow(static_cast<int>(ExitCode::peer_lost));
    }
    return;
  }
  const RankState state = reporter_.body().state;
  if (stop_signal() != 0 && (state == RankState::in_init || state == RankState::in_finalize)) {
    // MPI will not return to look at the signal. It may be the launcher's, which ends us for a
    // fault that is not seen from here, on another host or before a rank came: those who know have
    // spoken.
    constexpr int kCode = static_cast<int>(ExitCode::stopped);
    const bool all_here = whole_job_here() && std::none_of(local.begin(), local.end(), [](auto& s) {
                            return s.body.state == RankState::absent;
                          });
    if (all_here) end_.end(kCode, fmt::format("stopped by {}", signal_name(stop_signal())));
    table_.claim_ending(kCode);
    exit_at_once(kCode);
  }
  judge_all(local, now);
}

std::vector<Sighting> Watchdog::sight_all() {
  std::vector<Sighting> local;
  for (int slot = 0; slot < table_.slots(); ++slot) local.push_back(sight(table_.record(slot)));
  return local;
}

void Watchdog::exchange(const std::vector<Sighting>& local) {
  const auto ending = static_cast<int32_t>(table_.header().ending.load());
  try {
    links_->beat(local, {stop_signal(), ending});
  } catch (const Error&) {
    // A connection is broken: the other host's silence will be judged, or the launcher acts.
    return;
  }
  if (links_->news().stop_signal != 0) request_stop(links_->news().stop_signal);
  // Somebody of another host has spoken: here nobody shall.
  if (links_->news().ending != 0) table_.claim_ending(links_->news().ending);
  HostTable::Header& header = table_.header();
  uint32_t failed = 0, alike = 0, unclean = 0;
  int lowest = -1;
  uint64_t hash = 0;
  for (size_t r = 0; r < links_->remote().size(); ++r) {
    const RankBody& body = links_->remote()[r].body;
    if (body.failure_code == 0) continue;
    if (failed++ == 0) {
      lowest = static_cast<int>(r);
      hash = body.failure_hash;
    }
    alike += body.failure_hash == hash;
    unclean += body.failure_unclean != 0;
  }
  header.remote_unclean.store(unclean);
  header.remote_hash.store(hash);
  header.remote_lowest_failed.store(lowest);
  header.remote_alike.store(alike);
  header.remote_failed.store(failed);
}

Watchdog::Census Watchdog::census() {
  Census census;
  const HostTable::Header& header = table_.header();
  census.failed = static_cast<int>(header.remote_failed.load());
  int alike = static_cast<int>(header.remote_alike.load());
  census.clean = header.remote_unclean.load() == 0;
  uint64_t hash = header.remote_hash.load();
  if (census.failed > 0) census.lowest_failed = header.remote_lowest_failed.load();
  for (int slot = 0; slot < table_.slots(); ++slot) {
    const RankBody body = table_.record(slot).read();
    if (body.state == RankState::absent || body.failure_code == 0) continue;
    if (census.failed++ == 0) hash = body.failure_hash;
    alike += body.failure_hash == hash;
    if (body.failure_unclean != 0) census.clean = false;
    if (census.lowest_failed < 0 || body.world_rank < census.lowest_failed)
      census.lowest_failed = body.world_rank;
  }
  census.all_alike = census.failed == alike && census.failed >= options_.launcher.size;
  return census;
}

bool Watchdog::whole_job_here() const {
  return options_.launcher.size == table_.slots();
}

double Watchdog::all_wait_seconds() const {
  const double deadline = options_.deadline_seconds;
  // Inside MPI_Init and MPI_Finalize nobody but MPI knows what it waits for.
  if (num_hosts_ == 0 || links_closed_) {
    if (whole_job_here()) return std::max(deadline, kMpiSeconds);
    bool first_host = false;
    for (int slot = 0; slot < table_.slots(); ++slot) {
      const RankBody body = table_.record(slot).read();
      first_host |= body.state != RankState::absent && body.world_rank == 0;
    }
    const double patience = num_hosts_ == 0 ? std::max(deadline, kInitSeconds) : deadline;
    return patience + (first_host ? kUnheardSeconds : kUnheardLaterSeconds);
  }
  if (num_hosts_ == 1) return deadline;
  if (!links_) return std::numeric_limits<double>::infinity();
  return links_->self() == 0 ? deadline : deadline + kLaterLeaderSeconds;
}

void Watchdog::end_job(const std::vector<Sighting>& local, const std::string& line) {
  constexpr int kCode = static_cast<int>(ExitCode::peer_lost);
  if (!table_.claim_ending(kCode)) end_.follow(kCode);
  // This thread is the one that would tell the other hosts.
  if (links_ && !links_closed_) {
    try {
      for (int attempt = 0; attempt < 50 && !links_->beat(local, {stop_signal(), kCode}); ++attempt)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } catch (const Error&) {
      // They find out by themselves.
    }
  }
  end_.speak(kCode, line);
}

void Watchdog::judge_all(const std::vector<Sighting>& local, RankObserver::Clock::time_point now) {
  std::vector<Observation> seen;
  for (size_t slot = 0; slot < local.size(); ++slot) {
    local_[slot].set_name(name_of_slot(static_cast<int>(slot), local[slot].body));
    local_[slot].look(local[slot], now);
    seen.push_back(local_[slot].observation());
  }
  if (links_ && !links_closed_) {
    for (const HostLinks::Host& host : links_->hosts()) {
      if (&host == &links_->hosts()[static_cast<size_t>(links_->self())]) continue;
      for (const int rank : host.ranks) {
        const auto r = static_cast<size_t>(rank);
        remote_[r].look(links_->remote()[r], now);
        seen.push_back(remote_[r].observation());
        Observation& o = seen.back();
        if (o.body.state == RankState::absent) o.body.state = RankState::in_init;  // not heard yet
        if (host.ranks.size() > 1) o.silent_seconds -= kFartherSeconds;
        if (o.body.state == RankState::computing) o.idle_seconds -= kFartherSeconds;
      }
    }
  }
  if (options_.deadline_seconds <= 0) return;
  JudgeOptions options;
  options.deadline_seconds = options_.deadline_seconds;
  options.all_wait_seconds = all_wait_seconds();
  options.whole_job = num_hosts_ != 0 && !links_closed_;
  if (whole_job_here()) options.whole_job = true;
  if (const auto verdict = judge(seen, options)) end_job(local, verdict->message + consequence());
}

}  // namespace longhaul::comm
