#include "comm/stop_signals.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "runtime/core/check.h"
#include "runtime/core/temporaries.h"

namespace longhaul::comm {
namespace {

constexpr int kStops[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
constexpr int kCrashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr size_t kNumStops = sizeof kStops / sizeof *kStops;
constexpr size_t kNumCrashes = sizeof kCrashes / sizeof *kCrashes;

// All that the handlers touch.
std::atomic<int> wanted_stop{0};
std::atomic<HostTable*> the_table{nullptr};
std::atomic<Progress*> the_progress{nullptr};
std::atomic<int> the_rank{-1};
std::atomic<bool> without_launcher{false};  // nobody else would end a process that does not heed
char the_host[64];
struct sigaction old_stops[kNumStops];
struct sigaction old_crashes[kNumCrashes];
struct sigaction old_alarm;
constexpr unsigned kPatienceSeconds = 10;

// snprintf is not for signal handlers.
class Line {
 public:
  Line& operator<<(const char* text) {
    while (*text != '\0' && used_ < sizeof text_) text_[used_++] = *text++;
    return *this;
  }
  Line& operator<<(int value) {
    char digits[12];
    size_t n = sizeof digits;
    digits[--n] = '\0';
    unsigned rest = value < 0 ? 0u : static_cast<unsigned>(value);
    do digits[--n] = static_cast<char>('0' + rest % 10);
    while ((rest /= 10) != 0);
    return *this << digits + n;
  }
  void print() {
    if (write(STDERR_FILENO, text_, used_) < 0) return;  // nowhere left to say it
  }

 private:
  char text_[256];
  size_t used_ = 0;
};

void on_stop(int signal) {
  const int saved = errno;
  wanted_stop.store(signal, std::memory_order_relaxed);
  // Work looks at the request at its next step; where none comes, the alarm ends the process.
  if (without_launcher.load(std::memory_order_relaxed)) (void)alarm(kPatienceSeconds);
  if (HostTable* table = the_table.load(std::memory_order_relaxed)) {
    // The job is being ended, and the launcher wants us gone.
    const uint32_t ending = table->header().ending.load();
    if (ending != 0) exit_at_once(static_cast<int>(ending));
    if (signal == SIGTERM &&
        table->header().attached.load() < static_cast<uint32_t>(table->slots()))
      table->unlink_name();
    table->header().stop_signal.store(signal);
  }
  errno = saved;
}

void on_alarm(int) {
  if (wanted_stop.load(std::memory_order_relaxed) == 0) return;
  Line line;
  line << "longhaul: stopped by " << signal_name(wanted_stop.load(std::memory_order_relaxed))
       << ", in the middle of a step\n";
  line.print();
  exit_at_once(static_cast<int>(ExitCode::stopped));
}

void on_crash(int signal) {
  HostTable* table = the_table.load(std::memory_order_relaxed);
  Progress* progress = the_progress.load(std::memory_order_relaxed);
  if (table && progress && table->claim_ending(128 + signal)) {
    Line line;
    line << "longhaul: rank " << the_rank.load(std::memory_order_relaxed) << " (host " << the_host
         << ") crashed (" << signal_name(signal) << ") in phase " << progress->phase.load() << ", "
         << progress->operation.load();
    const int layer = progress->layer.load();
    if (layer >= 0) line << ", layer " << layer;
    line << "\n";
    line.print();
  }
  // Ranks that have not come yet will not: nobody else would remove the table's name.
  if (table && table->header().attached.load() < static_cast<uint32_t>(table->slots()))
    table->unlink_name();
  // As if we had never been here: MPI's handler (a stack trace) or the default.
  for (size_t i = 0; i < kNumCrashes; ++i)
    if (kCrashes[i] == signal) sigaction(signal, &old_crashes[i], nullptr);
  raise(signal);
}

void set_action(int signal, const struct sigaction* action, struct sigaction* before) {
  LH_CHECK(sigaction(signal, action, before) == 0, "signal {}: errno {}", signal, errno);
}

}  // namespace

int stop_signal() {
  return wanted_stop.load(std::memory_order_relaxed);
}

void request_stop(int signal) {
  int none = 0;
  wanted_stop.compare_exchange_strong(none, signal);
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGFPE:
      return "SIGFPE";
    case SIGILL:
      return "SIGILL";
    case SIGABRT:
      return "SIGABRT";
    default:
      return "a signal";
  }
}

SignalWatch::SignalWatch(HostTable& table, Progress& progress, int world_rank, const char* host,
                         bool alone) {
  LH_CHECK(the_table.load() == nullptr, "two sessions at once");
  std::strncpy(the_host, host, sizeof the_host - 1);
  the_rank.store(world_rank);
  the_progress.store(&progress);
  wanted_stop.store(0);
  without_launcher.store(alone);
  the_table.store(&table);
  struct sigaction on_time {};
  on_time.sa_handler = on_alarm;
  on_time.sa_flags = SA_RESTART;
  set_action(SIGALRM, &on_time, &old_alarm);
  for (size_t i = 0; i < kNumStops; ++i) {
    struct sigaction action {};
    action.sa_handler = on_stop;
    action.sa_flags = SA_RESTART;
    set_action(kStops[i], &action, &old_stops[i]);
  }
  for (size_t i = 0; i < kNumCrashes; ++i) set_action(kCrashes[i], nullptr, &old_crashes[i]);
  install();
}

void SignalWatch::install() {
  for (size_t i = 0; i < kNumCrashes; ++i) {
    struct sigaction action {
    }, before{};
    action.sa_handler = on_crash;
    action.sa_flags = SA_NODEFER;
    set_action(kCrashes[i], &action, &before);
    if (before.sa_handler != on_crash) old_crashes[i] = before;
  }
}

void SignalWatch::set_world_rank(int world_rank) {
  the_rank.store(world_rank);
}

SignalWatch::~SignalWatch() {
  (void)alarm(0);
  set_action(SIGALRM, &old_alarm, nullptr);
  for (size_t i = 0; i < kNumStops; ++i) set_action(kStops[i], &old_stops[i], nullptr);
  for (size_t i = 0; i < kNumCrashes; ++i) set_action(kCrashes[i], &old_crashes[i], nullptr);
  the_table.store(nullptr);
  the_progress.store(nullptr);
}

}  // namespace longhaul::comm
