#include "comm/affinity.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

// The lowest hardware thread of the core that `cpu` belongs to; `cpu` itself where not told.
size_t core_of(size_t cpu) {
  std::ifstream file(
      fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
  size_t first = cpu;
  return file >> first ? first : cpu;
}

CoreSet cores_of(pid_t pid) {
  CoreSet cores;
  constexpr size_t kCpus = CoreSet().size();
  cpu_set_t* set = CPU_ALLOC(kCpus);
  if (!set) return cores;
  const size_t bytes = CPU_ALLOC_SIZE(kCpus);
  CPU_ZERO_S(bytes, set);
  if (sched_getaffinity(pid, bytes, set) == 0)
    for (size_t cpu = 0; cpu < kCpus; ++cpu)
      if (CPU_ISSET_S(cpu, bytes, set)) cores.set(std::min(core_of(cpu), kCpus - 1));
  CPU_FREE(set);
  return cores;
}

// Cores that the control group allows by time: cpu.max of version 2, cpu.cfs_* of version 1.
double quota_cores() {
  std::ifstream max("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (max >> quota >> period && quota != "max" && period > 0)
    return std::strtod(quota.c_str(), nullptr) / period;
  std::ifstream quota1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double value = 0;
  if (quota1 >> value && period1 >> period && value > 0 && period > 0) return value / period;
  return 0;
}

bool started_by_srun() {
  return std::getenv("SLURM_STEP_ID") && !std::getenv("OMPI_COMM_WORLD_SIZE");
}

// What the launcher itself may run on is what it could have given its ranks. srun's daemon may run
// anywhere on the node, so there only what the job was given counts.
CoreSet launcher_cores(const CoreSet& own) {
  if (started_by_srun()) return own;
  const CoreSet cores = cores_of(getppid());
  return cores.any() ? cores : own;
}

}  // namespace

int CoreShares::default_threads() const {
  const CoreSet& mine = ranks[static_cast<size_t>(self)];
  double share = 0;
  for (size_t core = 0; core < mine.size(); ++core) {
    if (!mine[core]) continue;
    const auto sharers =
        std::count_if(ranks.begin(), ranks.end(), [&](const CoreSet& r) { return r[core]; });
    share += 1.0 / static_cast<double>(sharers);
  }
  if (quota_cores > 0) share = std::min(share, quota_cores / static_cast<double>(ranks.size()));
  return std::max(1, static_cast<int>(std::floor(share + 1e-6)));
}

std::string CoreShares::warning(int threads) const {
  CoreSet used;
  for (const CoreSet& r : ranks) used |= r;
  const auto num_used = static_cast<int>(used.count());
  const auto num_ranks = static_cast<int>(ranks.size());
  const int idle = static_cast<int>((available & ~used).count());
  const int per_rank = std::max(1, (num_used + idle) / num_ranks);
  const double limit = quota_cores > 0 ? std::min<double>(quota_cores, num_used) : num_used;
  if (idle > 0 && (quota_cores <= 0 || num_used < quota_cores))
    return fmt::format(
        "the {} rank{} of this host may use {} of its {} cores: give mpirun `--bind-to none`, or "
        "`--map-by ppr:{}:node:PE={} --bind-to core`",
        num_ranks, num_ranks == 1 ? "" : "s", num_used, num_used + idle, num_ranks, per_rank);
  if (threads > default_threads() && threads * num_ranks > limit + 1e-6)
    return fmt::format("{} rank{} of this host with {} threads each share {:g} cores: use {}",
                       num_ranks, num_ranks == 1 ? "" : "s", threads, limit,
                       default_threads() < threads
                           ? fmt::format("--threads {}{}", default_threads(),
                                         slurm ? " or more --cpus-per-task" : "")
                           : "fewer ranks");
  return "";
}

CoreSet cores_of_this_process() {
  return cores_of(0);
}

CoreShares gather_core_shares(MpiSession& session) {
  struct Row {
    char bits[CoreSet().size() / 8];
  };
  const CoreSet own = cores_of(0);
  Row mine{};
  for (size_t core = 0; core < own.size(); ++core)
    if (own[core]) mine.bits[core / 8] = static_cast<char>(mine.bits[core / 8] | 1 << (core % 8));
  const auto size = static_cast<size_t>(session.size());
  std::vector<Row> rows(size);
  const std::vector<int64_t> bytes(size, static_cast<int64_t>(sizeof(Row)));
  session.world().all_gather_v(&mine, sizeof mine, rows.data(), bytes, {"core masks"});
  CoreShares shares;
  shares.available = launcher_cores(own);
  shares.quota_cores = quota_cores();
  shares.slurm = started_by_srun();
  for (size_t r = 0; r < size; ++r) {
    const int rank = static_cast<int>(r);
    if (session.host_of(rank) != session.host()) continue;
    if (rank == session.rank()) shares.self = static_cast<int>(shares.ranks.size());
    CoreSet cores;
    for (size_t core = 0; core < cores.size(); ++core)
      if (rows[r].bits[core / 8] >> (core % 8) & 1) cores.set(core);
    shares.ranks.push_back(cores);
  }
  LH_CHECK(!shares.ranks.empty(), "host {}", session.host());
  return shares;
}

}  // namespace longhaul::comm
