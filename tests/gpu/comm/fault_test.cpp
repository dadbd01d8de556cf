// A rank hangs, is stopped or is killed while GPUs exchange: the job ends within the deadline and
// some, with the documented exit code and one line that names the rank. (tests/fault does the same
// for ranks without GPUs and says what the times allow for.)

#include <gtest/gtest.h>

#include <string>

#include "runtime/core/cuda/device.h"
#include "tests/support/job_runner.h"

namespace longhaul {
namespace {

using testing_support::Job;
using testing_support::JobResult;

constexpr double kDeadline = 4;
// Starting and ending processes with GPUs takes seconds where several share one.
constexpr double kAllowance = 20;

JobResult run(const std::string& implementation, int ranks, const std::string& fault) {
  Job job;
  job.command = {LONGHAUL_MPIRUN,           "-np",
                 std::to_string(ranks),     LONGHAUL_FAULT_PROGRAM,
                 std::to_string(kDeadline), implementation};
  if (!fault.empty()) job.environment = {{"LONGHAUL_FAULT", fault}};
  job.limit_seconds = kDeadline + kAllowance + 10;
  return testing_support::run_job(job);
}

class GpuFault : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string why;
    const int devices = cuda::device_count(&why);
    if (devices == 0) GTEST_SKIP() << why;
    ranks_ = devices >= 4 ? 4 : 2;
    if (GetParam() == std::string("nccl") && devices < 2) GTEST_SKIP() << "one GPU";
  }
  int ranks_ = 2;
};

TEST_P(GpuFault, EndsInTimeAndNamesTheRank) {
  struct Case {
    const char* kind;
    const char* where;
    int code;
  };
  for (const Case& c : {Case{"hang", "operation=allgather:layer=3", 75},
                        Case{"stop", "operation=attention:layer=5", 75},
                        Case{"hang", "operation=wait for GPU:layer=2", 75},
                        Case{"throw", "operation=attention:layer=5", 5},
                        Case{"kill", "operation=allgather:layer=4", 137}}) {
    const JobResult r = run(GetParam(), ranks_, std::string(c.kind) + ":rank=1:" + c.where);
    SCOPED_TRACE(std::string(c.kind) + " " + c.where + "\n" + r.output);
    EXPECT_FALSE(r.timed_out);
    EXPECT_EQ(r.exit_code, c.code);
    EXPECT_LE(r.seconds, kDeadline + kAllowance);
    for (const std::string& left : r.left_over) ADD_FAILURE() << "left over: " << left;
    const auto lines = r.own_lines();
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0].rfind("longhaul: rank 1 (host ", 0), 0u);
  }
}

TEST_P(GpuFault, HealthyJobsEndWell) {
  const JobResult r = run(GetParam(), ranks_, "");
  EXPECT_EQ(r.exit_code, 0) << r.output;
}

INSTANTIATE_TEST_SUITE_P(Implementations, GpuFault, ::testing::Values("peer", "staged", "nccl"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace longhaul
