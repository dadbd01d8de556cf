#include "comm/mpi_session.h"

#include <mpi.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <map>
#include <optional>
#include <vector>

#include "comm/affinity.h"
#include "comm/fatal.h"
#include "comm/host_links.h"
#include "comm/mpi_transport.h"
#include "comm/session_impl.h"
#include "comm/single_communicator.h"
#include "runtime/core/check.h"
#include "runtime/core/fault.h"
#include "runtime/core/temporaries.h"

namespace longhaul::comm {
namespace {

std::string this_host() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "?";
  const std::string host(name);
  return host.substr(0, host.find('.'));
}

Launcher checked_launcher() {
  const Launcher launcher = find_launcher();
  if (!launcher.launched) check_slurm(launcher, 1);
  return launcher;
}

}  // namespace

std::string SessionReporter::name_of(int world_rank) {
  const auto r = static_cast<size_t>(world_rank);
  return world_rank >= 0 && r < hosts.size()
             ? fmt::format("rank {} (host {})", world_rank, hosts[r])
             : fmt::format("rank {}", world_rank);
}

void SessionReporter::check_stop() {
  if (!heed_stop) return;
  if (const int signal = stop_signal())
    fail(ExitCode::stopped, "stopped by {}", signal_name(signal));
}

MpiSession::Impl::Impl(const SessionOptions& session_options)
    : options(session_options),
      launcher(checked_launcher()),
      host(this_host()),
      table(launcher),
      end(table),
      reporter(table.record(table.self()), launcher.launched ? launcher.rank : 0,
               table.pid_namespace()),
      signals(table, reporter.progress(), launcher.launched ? launcher.rank : 0, host.c_str(),
              !launcher.launched),
      exceptions_before(std::uncaught_exceptions()) {}

void MpiSession::Impl::start_mpi(int* argc, char*** argv) {
  // Where all ranks share one table it says when all are through MPI_Finalize, and names the one
  // that is not. Open MPI's own fence there adds nothing, and when the job must be ended in the
  // middle of it, mpirun 4.1 sometimes crashes (in PMIx_server_finalize) and loses the exit code.
  table_ends = table.shared() && launcher.size == table.slots();
  if (table_ends && setenv("OMPI_MCA_async_mpi_finalize", "1", 0) != 0)
    fail(ExitCode::resource, "setenv");
  reporter.progress().enter("MPI_Init");
  reporter.set_state(RankState::in_init);
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  reporter.set_state(RankState::computing);
  mpi = true;
  end.set_mpi_usable(true);
  signals.install();
  if (provided != MPI_THREAD_MULTIPLE)
    fail(ExitCode::usage, "this MPI does not support MPI_THREAD_MULTIPLE, which longhaul needs");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  reporter.set_world_rank(rank);
  signals.set_world_rank(rank);
  MpiTransport::Options transport;
  transport.chunk_bytes = options.chunk_bytes;
  transport.inline_bytes = options.inline_bytes;
  transport.crowded = launcher.local_size < 0 ||
                      launcher.local_size > static_cast<int>(cores_of_this_process().count());
  std::vector<int> world_ranks;
  for (int r = 0; r < size; ++r) world_ranks.push_back(r);
  world = std::make_unique<PlannedCommunicator>(
      rank, world_ranks, 0, std::make_unique<MpiTransport>(MPI_COMM_WORLD, reporter, transport),
      engine, reporter);
}

void MpiSession::Impl::gather_places() {
  struct Place {
    char host[64];
    uint64_t table;
  } mine{};
  host.copy(mine.host, sizeof mine.host - 1);
  mine.table = table.token();
  std::vector<Place> all(static_cast<size_t>(size));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof mine));
  world->all_gather_v(&mine, sizeof mine, all.data(), bytes, {"places"});
  local_rank = local_size = 0;
  std::map<std::string, int> nodes;
  std::map<uint64_t, size_t> index_of_table;
  std::vector<HostLinks::Host> tables;  // groups of ranks that see each other
  std::vector<std::string> names;
  for (int r = 0; r < size; ++r) {
    const Place& place = all[static_cast<size_t>(r)];
    reporter.hosts.emplace_back(place.host);
    names.push_back(reporter.name_of(r));
    ++nodes[place.host];
    if (host == place.host) {
      local_rank += r < rank;
      ++local_size;
    }
    const auto [at, is_new] = index_of_table.try_emplace(place.table, tables.size());
    if (is_new) tables.emplace_back();
    tables[at->second].ranks.push_back(r);
  }
  node_count = static_cast<int>(nodes.size());
  const auto num_tables = static_cast<int>(tables.size());
  const size_t own = index_of_table.at(mine.table);
  host_index = own == 0 ? 0 : 1;
  std::unique_ptr<HostLinks> links;
  if (num_tables > 1) {
    // The table's slots are its ranks in order, and the leaders' ranks the order of the tables.
    const bool leads = tables[own].ranks.front() == rank;
    MPI_Comm leaders = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(MPI_COMM_WORLD, leads ? 0 : MPI_UNDEFINED, rank, &leaders),
              "MPI_Comm_split");
    if (leads)
      links = std::make_unique<HostLinks>(leaders, std::move(tables), static_cast<int>(own), size,
                                          engine.mutex());
  }
  watchdog->set_world(names, num_tables, std::move(links));
}

void MpiSession::Impl::finish() {
  reporter.progress().enter_phase("finalize");
  if (!all_failed) world->barrier({kEndOfRun});
  watchdog->close_links();
  pump.reset();
  world.reset();
  reporter.progress().enter("MPI_Finalize");
  end.set_mpi_usable(false);
  if (!table_ends) reporter.set_state(RankState::in_finalize);
  check_mpi(MPI_Finalize(), "MPI_Finalize");
  mpi = false;
  reporter.set_state(RankState::finalized);
  if (table_ends) wait_for_neighbours();
}

void MpiSession::Impl::wait_for_neighbours() {
  auto all_finalized = [&] {
    for (int slot = 0; slot < table.slots(); ++slot) {
      const RankState state = table.record(slot).read().state;
      if (state != RankState::finalized && state != RankState::ended) return false;
    }
    return true;
  };
  while (!all_finalized()) usleep(500);
}

// An error on the way out; returns only by ending the process.
void MpiSession::Impl::finish_after(std::exception_ptr error) {
  const int code = report(error);  // here still: all ranks failed alike, and finalise together
  try {
    if (mpi) finish();
  } catch (...) {
    end.follow(code);
  }
  exit_at_once(code);
}

// For errors in destructors: the job ends at once.
MpiSession::Impl* MpiSession::Impl::open = nullptr;

void MpiSession::Impl::end_for(const Failure& failure) {
  std::string line = failure.message;
  if (open->watchdog && failure.code == ExitCode::peer_lost)
    line += open->watchdog->consequence();
  else if (open->watchdog)
    line =
        fmt::format("{}, {}: {}", open->watchdog->own_name(), open->reporter.body().place(), line);
  open->end.end(static_cast<int>(failure.code), line);
}

MpiSession::MpiSession(int* argc, char*** argv, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(options)) {
  Impl& s = *impl_;
  set_fault_from_environment();
  Impl::open = &s;
  set_fatal_handler(Impl::end_for);
  if (!s.launcher.launched) {
    s.reporter.hosts = {s.host};
    s.world = make_single_communicator(&s.reporter);
    return;
  }
  s.watchdog.emplace(s.table, s.reporter, s.end,
                     Watchdog::Options{options.timeout_seconds, s.host, s.launcher});
  try {
    s.start_mpi(argc, argv);
    check_slurm(s.launcher, s.size);
    s.gather_places();
    if (s.size > 1) s.pump.emplace(s.engine);
  } catch (...) {
    const int code = s.report(std::current_exception());
    s.end.follow(code);
  }
}

MpiSession::~MpiSession() {
  Impl& s = *impl_;
  struct Close {
    ~Close() {
      set_fatal_handler(nullptr);
      Impl::open = nullptr;
    }
  } close;
  if (!s.mpi) return;
  try {
    if (std::uncaught_exceptions() > s.exceptions_before)
      fail(ExitCode::internal, "an error left the session without run_guarded");
    s.finish();
  } catch (...) {
    s.finish_after(std::current_exception());
  }
}

Communicator& MpiSession::world() {
  return *impl_->world;
}

std::unique_ptr<Communicator> MpiSession::split(int color, int key) {
  Impl& s = *impl_;
  if (!s.mpi) return color < 0 ? nullptr : make_single_communicator(&s.reporter);
  auto& parent = dynamic_cast<PlannedCommunicator&>(*s.world);
  const SplitMember mine{color, key};
  std::vector<SplitMember> all(static_cast<size_t>(s.size));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof mine));
  const uint64_t sequence = parent.sequence();
  parent.all_gather_v(&mine, sizeof mine, all.data(), bytes, {"split"});
  MPI_Comm comm = MPI_COMM_NULL;
  // All ranks are here: the one blocking collective of a run returns at once.
  check_mpi(MPI_Comm_split(MPI_COMM_WORLD, color < 0 ? MPI_UNDEFINED : color, key, &comm),
            "MPI_Comm_split");
  if (color < 0) return nullptr;
  int rank = -1;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  const auto& transport = dynamic_cast<MpiTransport&>(parent.transport());
  return std::make_unique<PlannedCommunicator>(
      rank, split_members(all, color), split_group_id(parent.group(), sequence, color),
      std::make_unique<MpiTransport>(comm, s.reporter, transport.options()), s.engine, s.reporter);
}

int MpiSession::rank() const {
  return impl_->rank;
}
int MpiSession::size() const {
  return impl_->size;
}
int MpiSession::local_rank() const {
  return impl_->local_rank;
}
int MpiSession::local_size() const {
  return impl_->local_size;
}
int MpiSession::node_count() const {
  return impl_->node_count;
}
std::string MpiSession::host() const {
  return impl_->host;
}
std::string MpiSession::host_of(int rank) const {
  return impl_->reporter.hosts.at(static_cast<size_t>(rank));
}
Progress& MpiSession::progress() {
  return impl_->reporter.progress();
}

}  // namespace longhaul::comm
