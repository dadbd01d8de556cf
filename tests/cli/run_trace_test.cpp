// --trace: a timeline that a viewer reads, of every rank, in one clock.

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

using nlohmann::json;

const std::string kLine = std::string(LONGHAUL_MPIRUN) + " -np 2 " + LONGHAUL_BINARY +
                          " run --backend cpu --model " + LONGHAUL_TEST_DATA + "/golden/qwen3" +
                          " --prompts " + LONGHAUL_TEST_DATA + "/golden/qwen3/prompts.json ";

TEST(Trace, EveryRankAndLayerInOneClock) {
  const TemporaryFolder f;
  const Finished done = run_command(kLine + "--generate 2 --trace " + (f / "t.json"), 60);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const json trace = json::parse(read_text(f / "t.json"));
  std::map<int, std::set<int>> layers;           // of "attention", by rank
  std::map<int, double> end_of_prefill;          // rank -> end of its first "next tokens"
  std::map<std::pair<int, int>, double> end_of;  // (rank, track) -> end of its last span
  std::set<std::string> names;
  for (const json& e : trace["traceEvents"]) {
    const int rank = e["pid"];
    if (e["ph"] == "M") {
      names.insert(e["args"]["name"]);
      continue;
    }
    ASSERT_EQ(e["ph"], "X");
    const double begin = e["ts"], end = begin + e["dur"].get<double>();
    EXPECT_GE(begin, 0);
    // Spans of a track follow one another; a nanosecond may be lost in the decimals.
    double& last = end_of[{rank, e["tid"]}];
    EXPECT_GE(begin, last - 0.01) << e.dump();
    last = end;
    if (e["name"] == "attention") layers[rank].insert(e["args"]["layer"].get<int>());
    if (e["name"] == "next tokens" && end_of_prefill.count(rank) == 0) end_of_prefill[rank] = end;
  }
  EXPECT_TRUE(names.contains("rank 0") && names.contains("rank 1") && names.contains("host"));
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0], layers[1]);
  EXPECT_GE(layers[0].size(), 2u);
  // Ranks leave the reduction of the first tokens together: within 50 ms on a busy machine.
  ASSERT_EQ(end_of_prefill.size(), 2u);
  EXPECT_NEAR(end_of_prefill[0], end_of_prefill[1], 50e3);
}

TEST(Trace, AnExistingFileIsKept) {
  const TemporaryFolder f;
  write_text(f / "t.json", "mine");
  const Finished done = run_command(kLine + "--trace " + (f / "t.json"), 60);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_NE(done.err.find("--force"), std::string::npos) << done.err;
  EXPECT_EQ(read_text(f / "t.json"), "mine");
  EXPECT_EQ(run_command(kLine + "--force --trace " + (f / "t.json"), 60).exit_code, 0);
  EXPECT_NE(read_text(f / "t.json"), "mine");
}

}  // namespace
}  // namespace longhaul::test
