// The contract: whatever happens to a rank, on every path, the job ends within the deadline + 2 s
// (a dead rank: within 2 s), with the documented exit code, one line that names the right rank, and
// nothing left behind. A healthy job takes kHealthySeconds, mostly mpirun's, and since the machine
// that runs this may be busy kNoiseSeconds more are granted.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <map>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/job_runner.h"

namespace longhaul {
namespace {

using testing_support::Job;
using testing_support::JobResult;

constexpr double kDeadline = 2;
constexpr double kHealthySeconds = 1.5;
constexpr double kNoiseSeconds = 3;
constexpr size_t kAtOnce = 4;  // the jobs mostly wait

struct Case {
  std::string name;
  int ranks;
  std::string mode;
  std::string fault;
  int code;
  std::vector<std::string> says;  // in the one line
  double seconds;                 // more than a healthy job
  int signal = 0;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::string culprit(int rank) {
  return "longhaul: rank " + std::to_string(rank) + " (host ";
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  auto hangs = [&](const char* name, int ranks, int rank, const std::string& where,
                   const std::string& place) {
    for (const char* kind : {"hang", "stop"})
      cases.push_back(
          {std::string(name) + "_" + kind + "_np" + std::to_string(ranks),
           ranks,
           "run",
           std::string(kind) + ":rank=" + std::to_string(rank) + ":" + where,
           75,
           {culprit(rank), place,
            std::string(kind) == "hang" ? "makes no progress for 2" : "no sign of life for 2"},
           kDeadline + 2});
  };
  hangs("before_init", 4, 2, "operation=MPI_Init", "phase start, MPI_Init");
  hangs("load", 4, 0, "phase=load:operation=read", "phase load, read weights");
  hangs("compute", 2, 1, "operation=attention:layer=2", "phase prefill, attention, layer 2");
  hangs("exchange", 4, 3, "operation=allgather:layer=3", "phase prefill, allgather kv, layer 3");
  hangs("reduce", 8, 5, "operation=allreduce:layer=1", "phase prefill, allreduce, layer 1");
  hangs("dump", 4, 1, "phase=dump:operation=write", "phase dump, write");
  hangs("last_barrier", 2, 0, "operation=end of run", "phase finalize, end of run");
  hangs("finalize", 4, 1, "operation=MPI_Finalize", "phase finalize, MPI_Finalize");
  cases.push_back({"compute_spin_np4",
                   4,
                   "run",
                   "spin:rank=1:operation=attention:layer=2",
                   75,
                   {culprit(1), "makes no progress", "attention, layer 2"},
                   kDeadline + 2});

  auto deaths = [&](const char* kind, int code, const std::string& says) {
    for (const char* where : {"operation=MPI_Init", "operation=allgather:layer=2"}) {
      const bool init = std::string(where) == "operation=MPI_Init";
      cases.push_back({std::string(init ? "init_" : "exchange_") + kind,
                       init ? 2 : 4,
                       "run",
                       std::string(kind) + ":rank=1:" + where,
                       code,
                       {culprit(1), says},
                       2});
    }
  };
  deaths("kill", 137, "is gone");
  deaths("segv", 139, "crashed (SIGSEGV)");
  deaths("abort", 134, "crashed (SIGABRT)");
  deaths("exit", 3, "is gone");
  deaths("throw", 5, "injected fault");
  // (Before MPI_Init mpirun takes an exit with 0 for the program's will.)
  cases.push_back({"exchange_exit0",
                   4,
                   "run",
                   "exit0:rank=1:operation=allgather:layer=2",
                   1,
                   {culprit(1), "is gone"},
                   2});
  cases.push_back({"finalize_kill",
                   4,
                   "run",
                   "kill:rank=2:operation=MPI_Finalize",
                   137,
                   {culprit(2), "is gone"},
                   2});

  cases.push_back({"early_end",
                   4,
                   "early",
                   "",
                   75,
                   {"rank 1 (host ", "ended early", "allgather kv, layer 3"},
                   2});
  cases.push_back({"mismatched_operations",
                   4,
                   "mismatch",
                   "",
                   70,
                   {"ranks disagree", "rank 1 (host ", "allgather kv, layer 3", "step (barrier"},
                   2});
  cases.push_back({"mismatched_sizes",
                   2,
                   "sizes",
                   "",
                   70,
                   {"rank 1 (host ", "40000", "50000", "allgather kv, layer 3"},
                   2});
  cases.push_back({"error_in_destructor", 4, "destructor", "", 70, {"ranks disagree", "lost"}, 2});
  cases.push_back(
      {"all_fail_alike", 4, "all_fail", "", 4, {"longhaul: cannot read model.safetensors"}, 2});
  cases.push_back({"wrong_option", 4, "usage", "", 2, {"longhaul: unknown option --tiemout"}, 2});
  cases.push_back({"one_fails",
                   4,
                   "one_fails",
                   "",
                   4,
                   {culprit(1), "phase load", "cannot read model.safetensors"},
                   2});
  // No false alarm: a healthy job, and one whose steps take longer than the deadline, with ticks.
  for (int ranks : {1, 2, 4, 8})
    cases.push_back({"healthy_np" + std::to_string(ranks), ranks, "run", "", 0, {}, 2});
  cases.push_back({"slow_but_alive", 4, "slow", "", 0, {}, 12});
  cases.push_back({"term", 4, "forever", "", 1, {"stopped by SIGTERM"}, 6, SIGTERM});
  cases.push_back({"usr1", 4, "forever", "", 124, {"stopped by SIGUSR1"}, 6, SIGUSR1});
  return cases;
}

JobResult run(const Case& c) {
  Job job;
  job.command = {LONGHAUL_MPIRUN,           "-np", std::to_string(c.ranks), LONGHAUL_FAULT_PROGRAM,
                 std::to_string(kDeadline), c.mode};
  if (!c.fault.empty()) job.environment = {{"LONGHAUL_FAULT", c.fault}};
  job.signal = c.signal;
  job.signal_after = 3;
  return testing_support::run_job(job);
}

std::string print_name(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

class Fault : public testing::TestWithParam<Case> {
 protected:
  // All selected cases, a few at a time, before the first is judged.
  static void SetUpTestSuite() {
    std::vector<Case> selected;
    const auto* suite = testing::UnitTest::GetInstance()->current_test_suite();
    for (int i = 0; i < suite->total_test_count(); ++i) {
      const testing::TestInfo* test = suite->GetTestInfo(i);
      if (!test->should_run()) continue;
      for (const Case& c : all_cases())
        if (std::string(test->name()) == "Case/" + c.name) selected.push_back(c);
    }
    std::mutex mutex;
    std::atomic<size_t> next{0};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kAtOnce; ++t)
      threads.emplace_back([&] {
        for (size_t i; (i = next++) < selected.size();) {
          JobResult result = run(selected[i]);
          std::lock_guard lock(mutex);
          results_[selected[i].name] = std::move(result);
        }
      });
    for (std::thread& thread : threads) thread.join();
  }
  static std::map<std::string, JobResult> results_;
};
std::map<std::string, JobResult> Fault::results_;

TEST_P(Fault, Case) {
  const Case& c = GetParam();
  const JobResult& result = results_.at(c.name);
  SCOPED_TRACE(result.output);
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.exit_code, c.code);
  EXPECT_LE(result.seconds, kHealthySeconds + c.seconds + kNoiseSeconds);
  EXPECT_TRUE(result.left_over.empty()) << result.left_over.front();
  const auto lines = result.own_lines();
  ASSERT_EQ(lines.size(), c.says.empty() ? 0u : 1u);
  for (const std::string& text : c.says) EXPECT_NE(lines[0].find(text), std::string::npos) << text;
  RecordProperty("seconds", std::to_string(result.seconds));
}

INSTANTIATE_TEST_SUITE_P(All, Fault, testing::ValuesIn(all_cases()), print_name);

}  // namespace
}  // namespace longhaul
