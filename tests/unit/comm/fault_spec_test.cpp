#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "comm/launcher.h"
#include "runtime/core/check.h"
#include "runtime/core/fault.h"

namespace longhaul {
namespace {

TEST(FaultSpec, Parses) {
  const FaultSpec all =
      parse_fault("hang:rank=1:operation=allgather kv:layer=2:phase=load:after=3");
  EXPECT_EQ(all.kind, FaultKind::hang);
  EXPECT_EQ(all.rank, 1);
  EXPECT_EQ(all.operation, "allgather kv");
  EXPECT_EQ(all.layer, 2);
  EXPECT_EQ(all.phase, "load");
  EXPECT_EQ(all.after, 3);
  EXPECT_EQ(parse_fault("throw").rank, -1);
}

TEST(FaultSpec, RefusesWhatItDoesNotKnow) {
  for (const char* bad :
       {"", "explode", "hang:rank", "hang:rank=x", "hang:rank=1x", "hang:color=3"})
    EXPECT_THROW(parse_fault(bad), Error) << bad;
}

TEST(FaultPoint, StrikesTheNthMatchOnly) {
  set_fault(parse_fault("throw:rank=1:operation=gather:after=2"));
  fault_point(0, "load", "allgather kv", 1);
  fault_point(1, "load", "reduce", 1);
  fault_point(1, "load", "allgather kv", 1);
  EXPECT_THROW(fault_point(1, "load", "allgather kv", 2), Error);
  fault_point(1, "load", "allgather kv", 3);
  set_fault(std::nullopt);
}

// Sets variables, and takes every one that find_launcher() looks at away.
class Environment {
 public:
  explicit Environment(const std::map<std::string, std::string>& variables) {
    for (const char* name :
         {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD",
          "PMI_SIZE", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
          "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_JOB_ID",
          "SLURM_STEP_ID"}) {
      if (const char* value = std::getenv(name)) saved_[name] = value;
      unsetenv(name);
    }
    for (const auto& [name, value] : variables) {
      setenv(name.c_str(), value.c_str(), 1);
      set_[name] = value;
    }
  }
  ~Environment() {
    for (const auto& [name, value] : set_) unsetenv(name.c_str());
    for (const auto& [name, value] : saved_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  std::map<std::string, std::string> saved_, set_;
};

TEST(Launcher, None) {
  const Environment environment({});
  EXPECT_FALSE(comm::find_launcher().launched);
  comm::check_slurm(comm::find_launcher(), 1);
}

TEST(Launcher, Mpirun) {
  const Environment environment({{"OMPI_COMM_WORLD_SIZE", "4"},
                                 {"OMPI_COMM_WORLD_RANK", "3"},
                                 {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                 {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                 {"SLURM_NTASKS", "8"},
                                 {"SLURM_LOCALID", "0"},
                                 {"PMIX_NAMESPACE", "77"}});
  const comm::Launcher l = comm::find_launcher();
  EXPECT_TRUE(l.launched);
  EXPECT_EQ(l.rank, 3);
  EXPECT_EQ(l.size, 4);
  EXPECT_EQ(l.local_rank, 1);  // Slurm's are those of mpirun's daemon
  EXPECT_EQ(l.local_size, 2);
  EXPECT_FALSE(l.job.empty());
}

TEST(Launcher, MpirunOfOneRankInAnAllocationIsOnPurpose) {
  const Environment environment(
      {{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"SLURM_NTASKS", "8"}});
  comm::check_slurm(comm::find_launcher(), 1);
}

TEST(Launcher, SrunWithPmix) {
  const Environment environment({{"PMIX_RANK", "5"},
                                 {"PMIX_NAMESPACE", "slurm.pmix.9.0"},
                                 {"SLURM_STEP_NUM_TASKS", "7"},
                                 {"SLURM_LOCALID", "2"},
                                 {"SLURM_NODEID", "1"},
                                 {"SLURM_STEP_TASKS_PER_NODE", "3(x2),1"}});
  const comm::Launcher l = comm::find_launcher();
  EXPECT_EQ(l.rank, 5);
  EXPECT_EQ(l.size, 7);
  EXPECT_EQ(l.local_rank, 2);
  EXPECT_EQ(l.local_size, 3);
}

TEST(Launcher, SlurmTrapIsRefusedWithTheFix) {
  for (const char* variable : {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}) {
    const Environment environment({{variable, "4"}, {"SLURM_PROCID", "0"}});
    try {
      comm::check_slurm(comm::find_launcher(), 1);
      ADD_FAILURE() << variable;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      const std::string text = e.what();
      EXPECT_NE(text.find("srun --mpi=pmix"), std::string::npos) << text;
      EXPECT_NE(text.find("mpirun"), std::string::npos) << text;
    }
  }
  // A step of one task in an allocation of four is one rank on purpose.
  const Environment one({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "4"}});
  comm::check_slurm(comm::find_launcher(), 1);
}

}  // namespace
}  // namespace longhaul
