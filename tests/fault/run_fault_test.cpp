// A rank of `longhaul run` hangs, is stopped or is killed on every path of a real run: the job ends
// in time, one line names the rank to blame, nothing is half-written. (tests/fault/fault_test.cpp
// does the same to a small program, phase by phase, and says what the times allow for.)

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/job_runner.h"
#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

using testing_support::Job;
using testing_support::JobResult;

constexpr double kDeadline = 2;
constexpr double kAllowance = 2 + 1.5 + 3;  // the contract's, a healthy job's, a busy machine's

struct Case {
  std::string name;
  int ranks;
  int culprit;
  std::string kind;   // of runtime/core/fault.h
  std::string where;  // of runtime/core/fault.h
  std::string place;  // as the line tells it
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  auto add = [&](const char* name, int ranks, int culprit, const char* where, const char* place) {
    for (const char* kind : {"hang", "stop", "kill"})
      cases.push_back({std::string(name) + "_" + kind, ranks, culprit, kind, where, place});
  };
  add("load", 3, 2, "phase=load:operation=load layer:layer=1", "phase load, load layer, layer 1");
  add("qkv", 2, 0, "operation=qkv:layer=1", "phase prefill, qkv, layer 1");
  add("attention", 4, 3, "operation=attention:layer=2", "phase prefill, attention, layer 2");
  add("exchange", 4, 1, "operation=allgather:layer=0", "phase prefill, allgather kv, layer 0");
  add("experts", 2, 1, "operation=experts:layer=2", "phase prefill, experts, layer 2");
  add("tokens", 3, 0, "operation=next tokens", "phase prefill, next tokens");
  add("generate", 2, 1, "phase=generate:operation=qkv:layer=0", "phase generate, qkv, layer 0");
  add("dump", 3, 1, "phase=dump", "phase dump");
  return cases;
}

std::string dump_of(const Case& c, const TemporaryFolder& folder) {
  return folder / c.name;
}

JobResult run(const Case& c, const TemporaryFolder& folder) {
  const std::string model = LONGHAUL_TEST_DATA "/golden/qwen3_moe";
  Job job;
  job.command = {LONGHAUL_MPIRUN,
                 "-np",
                 std::to_string(c.ranks),
                 LONGHAUL_BINARY,
                 "run",
                 "--backend",
                 "cpu",
                 "--model",
                 model,
                 "--prompts",
                 model + "/prompts.json",
                 "--generate",
                 "3",
                 "--timeout",
                 std::to_string(kDeadline),
                 "--dump",
                 dump_of(c, folder)};
  job.environment = {
      {"LONGHAUL_FAULT", c.kind + ":rank=" + std::to_string(c.culprit) + ":" + c.where}};
  return testing_support::run_job(job);
}

void expect_nothing_half_written(const std::string& dump) {
  EXPECT_FALSE(std::filesystem::exists(dump + "/manifest.json"));
}

// The jobs mostly wait: four at a time, all before the first is judged.
TEST(RunFault, EveryPathEndsInTimeAndNamesTheRank) {
  const TemporaryFolder folder;
  const std::vector<Case> cases = all_cases();
  std::map<std::string, JobResult> results;
  std::mutex mutex;
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < cases.size();) {
        JobResult result = run(cases[i], folder);
        const std::lock_guard lock(mutex);
        results[cases[i].name] = std::move(result);
      }
    });
  for (std::thread& t : threads) t.join();

  for (const Case& c : cases) {
    const JobResult& r = results.at(c.name);
    SCOPED_TRACE(c.name + "\n" + r.output);
    EXPECT_FALSE(r.timed_out);
    EXPECT_EQ(r.exit_code, c.kind == "kill" ? 137 : 75);
    EXPECT_LE(r.seconds, (c.kind == "kill" ? 0 : kDeadline) + kAllowance);
    for (const std::string& left : r.left_over) ADD_FAILURE() << "left over: " << left;
    const auto lines = r.own_lines();
    EXPECT_EQ(lines.size(), 1u);
    if (lines.size() != 1) continue;
    EXPECT_EQ(lines[0].rfind("longhaul: rank " + std::to_string(c.culprit) + " (host ", 0), 0u);
    EXPECT_NE(lines[0].find(c.place), std::string::npos) << c.place;
    expect_nothing_half_written(dump_of(c, folder));
  }
}

}  // namespace
}  // namespace longhaul::test
