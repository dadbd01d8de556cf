#include "comm/mpi_session.h"

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <exception>
#include <optional>
#include <vector>

#include "comm/fatal.h"
#include "comm/launcher.h"
#include "comm/mpi_transport.h"
#include "comm/planned_communicator.h"
#include "comm/rank_reporter.h"
#include "comm/single_communicator.h"
#include "runtime/core/check.h"
#include "runtime/core/fault.h"

namespace longhaul::comm {
namespace {

std::string this_host() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "?";
  std::string host(name);
  return host.substr(0, host.find('.'));
}

int affinity_count() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

class SessionReporter final : public RankReporter {
 public:
  using RankReporter::RankReporter;
  std::string name_of(int world_rank) override {
    const auto r = static_cast<size_t>(world_rank);
    return r < hosts.size() ? fmt::format("rank {} (host {})", world_rank, hosts[r])
                            : fmt::format("rank {}", world_rank);
  }
  std::vector<std::string> hosts;
};

}  // namespace

struct MpiSession::Impl {
  explicit Impl(const SessionOptions& o) : options(o) {}

  void start_mpi(int* argc, char*** argv);
  void gather_places();

  SessionOptions options;
  Launcher launcher;
  RankRecord record{};
  std::optional<SessionReporter> reporter;
  Engine engine;
  std::unique_ptr<Communicator> world;
  std::string host = this_host();
  int rank = 0, size = 1, local_rank = 0, local_size = 1, node_count = 1;
  bool mpi = false;
};

void MpiSession::Impl::start_mpi(int* argc, char*** argv) {
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  mpi = true;
  if (provided != MPI_THREAD_MULTIPLE)
    fail(ExitCode::usage, "this MPI does not support MPI_THREAD_MULTIPLE, which longhaul needs");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  reporter->set_world_rank(rank);
  MpiTransport::Options transport;
  transport.chunk_bytes = options.chunk_bytes;
  transport.inline_bytes = options.inline_bytes;
  transport.crowded = launcher.local_size < 0 || launcher.local_size > affinity_count();
  std::vector<int> world_ranks;
  for (int r = 0; r < size; ++r) world_ranks.push_back(r);
  world = std::make_unique<PlannedCommunicator>(
      rank, world_ranks, 0, std::make_unique<MpiTransport>(MPI_COMM_WORLD, *reporter, transport),
      engine, *reporter);
}

void MpiSession::Impl::gather_places() {
  struct Place {
    char host[64];
  } mine{};
  host.copy(mine.host, sizeof mine.host - 1);
  std::vector<Place> all(static_cast<size_t>(size));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof mine));
  world->all_gather_v(&mine, sizeof mine, all.data(), bytes, {"places"});
  local_rank = local_size = node_count = 0;
  for (int r = 0; r < size; ++r) {
    const std::string there = all[static_cast<size_t>(r)].host;
    bool seen = false;
    for (const std::string& h : reporter->hosts) seen |= h == there;
    if (!seen) ++node_count;
    reporter->hosts.push_back(there);
    if (there != host) continue;
    if (r < rank) ++local_rank;
    ++local_size;
  }
}

MpiSession::MpiSession(int* argc, char*** argv, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(options)) {
  Impl& s = *impl_;
  s.launcher = find_launcher();
  if (!s.launcher.launched) check_slurm(s.launcher, 1);
  set_fault_from_environment();
  s.reporter.emplace(s.record, s.launcher.launched ? s.launcher.rank : 0);
  if (!s.launcher.launched) {
    s.reporter->hosts = {s.host};
    s.world = make_single_communicator(&*s.reporter);
    return;
  }
  s.start_mpi(argc, argv);
  check_slurm(s.launcher, s.size);
  s.gather_places();
}

MpiSession::~MpiSession() {
  Impl& s = *impl_;
  if (!s.mpi) return;
  try {
    s.world->barrier({kEndOfRun});
    s.world.reset();
    check_mpi(MPI_Finalize(), "MPI_Finalize");
  } catch (...) {
    end_process(std::current_exception());
  }
}

Communicator& MpiSession::world() {
  return *impl_->world;
}

std::unique_ptr<Communicator> MpiSession::split(int color, int key) {
  Impl& s = *impl_;
  if (!s.mpi) return color < 0 ? nullptr : make_single_communicator(&*s.reporter);
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
      std::make_unique<MpiTransport>(comm, *s.reporter, transport.options()), s.engine,
      *s.reporter);
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
  return impl_->reporter->hosts.at(static_cast<size_t>(rank));
}
Progress& MpiSession::progress() {
  return impl_->reporter->progress();
}

int run_guarded(MpiSession& session, const std::function<int()>& body) {
  try {
    return body();
  } catch (...) {
    const Failure failure = explain(std::current_exception());
    std::fprintf(stderr, "longhaul: rank %d: %s\n", session.rank(), failure.message.c_str());
    if (session.impl_->mpi) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(failure.code));
    _exit(static_cast<int>(failure.code));
  }
}

}  // namespace longhaul::comm
