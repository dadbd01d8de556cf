#include "comm/watchdog.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>

#include "comm/judge.h"
#include "comm/stop_signals.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

using Seconds = std::chrono::duration<double>;
constexpr double kFartherSeconds = 1.0;  // ranks of other hosts get this much more
constexpr double kMpiSeconds = 30.0;     // MPI_Init and MPI_Finalize with every rank in them
constexpr double kStopSeconds = 10.0;    // from a signal to stop until a rank must be at an end

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
  remote_.clear();
  if (!links_) return;
  for (const std::string& name : names)
    remote_.emplace_back(name, std::max(0.1, options_.deadline_seconds / 4));
}

void Watchdog::close_links() {
  std::lock_guard lock(mutex_);
  links_closed_ = true;
  if (!links_) return;
  const double patience = options_.deadline_seconds > 0 ? options_.deadline_seconds : 60;
  if (!links_->close(patience + kFartherSeconds))
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
  std::vector<Sighting> local;
  for (int slot = 0; slot < table_.slots(); ++slot) local.push_back(sight(table_.record(slot)));
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
      end_.follow(static_cast<int>(ExitCode::peer_lost));
    }
    return;
  }
  judge_all(local, now);
}

void Watchdog::exchange(const std::vector<Sighting>& local) {
  try {
    links_->beat(local, stop_signal());
  } catch (const Error&) {
    // A connection is broken: the other host's silence will be judged, or the launcher acts.
    return;
  }
  if (links_->stop_signal() != 0) request_stop(links_->stop_signal());
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

double Watchdog::all_wait_seconds() const {
  const double deadline = options_.deadline_seconds;
  const bool whole_job_here = options_.launcher.size == table_.slots();
  // Inside MPI_Init and MPI_Finalize nobody but MPI knows what it waits for.
  if (num_hosts_ == 0 || links_closed_)
    return whole_job_here ? std::max(deadline, kMpiSeconds) : deadline + kFartherSeconds;
  if (num_hosts_ == 1) return deadline;
  if (!links_) return std::numeric_limits<double>::infinity();
  return links_->self() == 0 ? deadline : deadline + kFartherSeconds;
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
        seen.back().silent_seconds -= kFartherSeconds;
        if (seen.back().body.state == RankState::computing)
          seen.back().idle_seconds -= kFartherSeconds;
      }
    }
  }
  if (options_.deadline_seconds <= 0) return;
  JudgeOptions options;
  options.deadline_seconds = options_.deadline_seconds;
  options.all_wait_seconds = all_wait_seconds();
  options.whole_job = num_hosts_ != 0 && !links_closed_;
  if (options_.launcher.size == table_.slots()) options.whole_job = true;
  if (const auto verdict = judge(seen, options))
    end_.end(static_cast<int>(ExitCode::peer_lost), verdict->message + consequence());
}

}  // namespace longhaul::comm
