#include "comm/launcher.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

// The first of the variables that holds a number, else -1. Slurm writes lists as "2(x3),1": the
// leading number is what is wanted of those, where at all.
int number(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = variable(name);
    if (!text) continue;
    int value = -1;
    const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
    if (error == std::errc() && *end == '\0' && value >= 0) return value;
  }
  return -1;
}

bool any(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (variable(name)) return true;
  return false;
}

// Tasks of this step on this node: SLURM_STEP_TASKS_PER_NODE ("2(x3),1") at SLURM_NODEID.
int slurm_local_size() {
  const char* text = variable("SLURM_STEP_TASKS_PER_NODE");
  const int node = number({"SLURM_NODEID"});
  if (!text || node < 0) return -1;
  const char* end = text + std::strlen(text);
  for (int at = 0; text < end;) {
    int tasks = 0, times = 1;
    auto parsed = std::from_chars(text, end, tasks);
    if (parsed.ec != std::errc()) return -1;
    text = parsed.ptr;
    if (end - text > 2 && text[0] == '(' && text[1] == 'x') {
      parsed = std::from_chars(text + 2, end, times);
      if (parsed.ec != std::errc() || *parsed.ptr != ')') return -1;
      text = parsed.ptr + 1;
    }
    if (node < at + times) return tasks;
    at += times;
    if (text < end && *text++ != ',') return -1;
  }
  return -1;
}

}  // namespace

Launcher find_launcher() {
  Launcher l;
  l.launched = any({"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD"});
  if (!l.launched) return l;
  const bool mpirun = any({"OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"});
  l.rank = number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"});
  l.size = number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"});
  l.local_rank = number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"});
  l.local_size = number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"});
  // Under mpirun in an allocation Slurm's variables are those of mpirun's daemon: not looked at.
  if (!mpirun) {
    if (l.size < 0) l.size = number({"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
    if (l.local_rank < 0) l.local_rank = number({"SLURM_LOCALID"});
    if (l.local_size < 0) l.local_size = slurm_local_size();
  }
  // The address of this host's PMIx server tells jobs apart that share a name by chance.
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMIX_SERVER_URI4",
                           "PMIX_SERVER_URI3", "PMIX_SERVER_URI2", "PMIX_SERVER_URI21",
                           "OMPI_MCA_orte_local_daemon_uri", "SLURM_JOB_ID", "SLURM_STEP_ID"})
    if (const char* value = variable(name)) l.job += std::string(value) + "|";
  return l;
}

void check_slurm(const Launcher& launcher, int mpi_size) {
  if (mpi_size != 1 || any({"OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"})) return;
  const int step = number({"SLURM_STEP_NUM_TASKS"});
  const int tasks = step > 0 ? step : number({"SLURM_NTASKS", "SLURM_NPROCS"});
  if (tasks <= 1 || launcher.size > 1) return;
  // Each task finds the same; the first one speaks for all.
  if (step > 1 && number({"SLURM_PROCID"}) > 0) {
    usleep(300000);  // srun may end the step with the first exit
    _exit(static_cast<int>(ExitCode::usage));
  }
  fail(ExitCode::usage,
       "Slurm has {} tasks here but MPI sees 1 rank: each would do the whole work alone; use "
       "`srun --mpi=pmix` (`srun --mpi=list` shows whether it is there) or `mpirun` inside the "
       "allocation; `srun -n 1` or `mpirun -n 1` for one rank on purpose",
       tasks);
}

}  // namespace longhaul::comm
