// run_guarded: how an error on one rank, or on all, becomes one line and one exit code.

#include <chrono>
#include <exception>
#include <thread>

#include "comm/fatal.h"
#include "comm/session_impl.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

using Clock = std::chrono::steady_clock;

// How long a failed rank waits to see whether the others fail alike (a model folder that none can
// read). Ranks that were told to stop get longer: each comes to its next step first.
constexpr double kGraceSeconds = 0.5;
constexpr double kStopGraceSeconds = 8.0;
// A rank with a higher number leaves the first word to the lowest that failed, for this long.
constexpr double kDeferSeconds = 0.5;

// Between the hosts' turns to speak, when there are several.
constexpr double kTurnSeconds = 0.5;

uint64_t hash_of(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

int MpiSession::Impl::report(std::exception_ptr error) {
  const Failure failure = explain(error);
  reporter.heed_stop = false;
  const int code = static_cast<int>(failure.code);
  if (!watchdog) {
    print_line(failure.message);
    all_failed = true;
    return code;
  }
  const std::string place = reporter.body().place();
  if (failure.code == ExitCode::peer_lost) {
    // News at once, which names who and where itself. Several hosts may find it together: in turn.
    const auto found = Clock::now();
    while (seconds_since(found) < kTurnSeconds * host_index && table.header().ending.load() == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    end.end(code, failure.message + watchdog->consequence());
  }
  reporter.set_failed(code, hash_of(failure.message), !mpi || engine.clean());
  watchdog->kick();
  const auto start = Clock::now();
  const double grace = failure.code == ExitCode::stopped ? kStopGraceSeconds : kGraceSeconds;
  Watchdog::Census census;
  for (int turn = 0;; ++turn) {
    if (table.header().ending.load() != 0) end.follow(code);
    // The launcher tells all ranks to stop when one has died: then that is the news.
    if (const auto dead = turn % 16 == 0 ? watchdog->find_dead() : std::nullopt)
      end.end(static_cast<int>(ExitCode::peer_lost), *dead + watchdog->consequence());
    census = watchdog->census();
    if (census.all_alike) break;
    const double waited = seconds_since(start);
    if (waited > grace + (census.lowest_failed == rank ? 0 : kDeferSeconds))
      end.end(code, fmt::format("{}, {}: {}", watchdog->own_name(), place, failure.message));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  // With operations left half-way MPI_Finalize may wait for ever.
  const bool speaks = census.lowest_failed == rank;
  if (!census.clean) {
    if (speaks) end.end(code, failure.message);
    end.follow(code);
  }
  all_failed = true;
  if (speaks) print_line(failure.message);
  return code;
}

int report_outside_session(std::exception_ptr error) {
  const Failure failure = explain(error);
  const int code = static_cast<int>(failure.code);
  const Launcher launcher = find_launcher();
  if (!launcher.launched) {
    print_line(failure.message);
    return code;
  }
  // The first of each host speaks; the table is kept until its neighbours have come too.
  HostTable table(launcher);
  uint32_t none = 0;
  const auto value = static_cast<uint32_t>(code);
  if (table.header().ending.compare_exchange_strong(none, value)) {
    const bool host_of_rank_0 = launcher.rank <= launcher.local_rank;
    if (!host_of_rank_0) std::this_thread::sleep_for(std::chrono::seconds(1));
    print_line(failure.message);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return code;
}

int run_guarded(MpiSession& session, const std::function<int()>& body) {
  try {
    return body();
  } catch (...) {
    return session.impl_->report(std::current_exception());
  }
}

}  // namespace longhaul::comm
