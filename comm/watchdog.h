#pragma once
// The helper thread of a rank: beats for it, watches the others and ends the job when one of them
// is to blame (comm/judge.h).
//
// What it can name. Ranks of this host see each other in a shared table (comm/host_table.h) from
// before MPI_Init until after MPI_Finalize, so a rank that stops, hangs or dies is named by its
// neighbours on every path, and a hung one by its own helper thread. Between hosts the leaders
// (lowest ranks) tell each other all records over MPI, from the end of MPI_Init to the last
// barrier. Outside that, a rank that is alone on its host and stopped cannot be named by anybody:
// then the other hosts end the job and say that it was a rank of another host.
//
// How the time runs. From a rank's last sign, seen by a watcher that was itself awake: a pause of
// the watcher counts as at most a quarter of the deadline. Those who are nearest to the culprit
// speak first, and the others get some time more, in which they learn that the job is ending:
// ranks of another host that have neighbours or a helper thread to speak for them 3 s; the leaders
// after the first, when all wait, 1.5 s. Inside MPI_Init and MPI_Finalize over several hosts,
// where nobody learns of anything, a host without evidence waits 1.5 s more (rank 0's) or 2.5 s,
// in MPI_Init from 10 s on at the earliest: it may well take seconds.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/host_links.h"
#include "comm/host_table.h"
#include "comm/job_end.h"
#include "comm/observer.h"
#include "comm/rank_reporter.h"

namespace longhaul::comm {

class Watchdog {
 public:
  struct Options {
    double deadline_seconds = 60;  // 0 or less: beats, and judges nobody
    std::string host;
    Launcher launcher;
  };
  // Starts at once. The references must outlive it.
  Watchdog(HostTable& table, RankReporter& reporter, JobEnd& end, Options options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // After MPI_Init. names[r]: "rank 2 (host n3)". `links`: of leaders, where there are other hosts.
  void set_world(const std::vector<std::string>& names, int num_hosts,
                 std::unique_ptr<HostLinks> links);
  // After the last barrier: from here on only this host is watched.
  void close_links();
  void kick();  // beat now

  // Which ranks have failed, of those that can be seen.
  struct Census {
    int failed = 0;
    bool all_alike = false;  // every rank of the job has, with the same message
    int lowest_failed = -1;
    bool clean = true;  // nobody left messages half-way
  };
  Census census();
  // A rank of this host whose process is gone though it had not ended; its name and place.
  std::optional<std::string> find_dead();
  // Who is to name itself so in messages: "rank 2 (host n3)".
  std::string own_name() const;
  std::string consequence() const;  // "; ending all 4 ranks"

 private:
  void run();
  void beat(RankObserver::Clock::time_point now);
  std::vector<Sighting> sight_all();  // this host's ranks
  void exchange(const std::vector<Sighting>& local);
  void judge_all(const std::vector<Sighting>& local, RankObserver::Clock::time_point now);
  bool whole_job_here() const;  // every rank of the job has a slot in this host's table
  double all_wait_seconds() const;
  [[noreturn]] void end_job(const std::vector<Sighting>& local, const std::string& line);
  std::string name_of_slot(int slot, const RankBody& body) const;
  std::optional<std::string> dead_in_slot(int slot) const;

  HostTable& table_;
  RankReporter& reporter_;
  JobEnd& end_;
  Options options_;

  mutable std::mutex mutex_;  // everything below
  std::condition_variable wake_;
  std::optional<RankObserver::Clock::time_point> stop_since_;
  bool stopping_ = false;
  bool kicked_ = false;
  std::vector<RankObserver> local_, remote_;
  int next_slot_ = 0;  // whose process to look at
  int num_hosts_ = 0;  // 0: not known yet
  bool links_closed_ = false;
  std::unique_ptr<HostLinks> links_;
  std::thread thread_;
};

}  // namespace longhaul::comm
