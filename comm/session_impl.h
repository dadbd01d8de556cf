#pragma once
// The inside of MpiSession, shared by mpi_session.cpp and guard.cpp.

#include <optional>
#include <string>
#include <vector>

#include "comm/fatal.h"
#include "comm/host_table.h"
#include "comm/job_end.h"
#include "comm/launcher.h"
#include "comm/mpi_session.h"
#include "comm/planned_communicator.h"
#include "comm/pump.h"
#include "comm/rank_reporter.h"
#include "comm/stop_signals.h"
#include "comm/watchdog.h"

namespace longhaul::comm {

// A rank's reporter that knows the hosts' names and the signals to stop.
class SessionReporter final : public RankReporter {
 public:
  using RankReporter::RankReporter;
  std::string name_of(int world_rank) override;
  std::vector<std::string> hosts;  // by world rank; empty until known
  bool heed_stop = true;           // no longer once the rank is on its way out

 protected:
  void check_stop() override;
};

struct MpiSession::Impl {
  explicit Impl(const SessionOptions& session_options);
  void start_mpi(int* argc, char*** argv);
  void gather_places();
  void finish();  // the last barrier and MPI_Finalize
  void wait_for_neighbours();
  [[noreturn]] void finish_after(std::exception_ptr error);
  int report(std::exception_ptr error);  // guard.cpp; returns only when all ranks failed alike

  static Impl* open;  // the one session
  static void end_for(const Failure& failure);

  // In the order of construction; destroyed the other way round.
  SessionOptions options;
  Launcher launcher;
  std::string host;
  HostTable table;
  JobEnd end;
  SessionReporter reporter;
  SignalWatch signals;
  std::optional<Watchdog> watchdog;  // where there is a launcher
  Engine engine;
  std::unique_ptr<Communicator> world;
  std::optional<Pump> pump;  // where there are other ranks

  int rank = 0, size = 1, local_rank = 0, local_size = 1, node_count = 1;
  int host_index = 0;         // 0: of rank 0; 1: any other
  bool mpi = false;           // initialised and not finalised
  bool table_ends = false;    // the host's table, not MPI, tells when all ranks have finalised
  bool all_failed = false;    // every rank is on its way out with the same error
  int exceptions_before = 0;  // std::uncaught_exceptions() at construction
};

}  // namespace longhaul::comm
