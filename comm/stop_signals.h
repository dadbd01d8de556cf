#pragma once
// SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 ask the job to stop: they set a flag that waits and steps
// look at. Crashes (SIGSEGV and the like) say where they happened before they take their course.

#include <atomic>

#include "comm/host_table.h"
#include "runtime/core/progress.h"

namespace longhaul::comm {

// Installed while alive; one at a time.
class SignalWatch {
 public:
  // `alone`: without a launcher; a stop that work does not heed for 10 s ends the process then.
  SignalWatch(HostTable& table, Progress& progress, int world_rank, const char* host, bool alone);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  void install();  // again after MPI_Init, which may have put its own handlers in place
  void set_world_rank(int world_rank);
};

int stop_signal();  // 0: none
void request_stop(int signal);
const char* signal_name(int signal);  // "SIGTERM"

}  // namespace longhaul::comm
