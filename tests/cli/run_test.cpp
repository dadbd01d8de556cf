// `longhaul run` as its users start it: under mpirun, with files in and files out.

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

using nlohmann::json;

const std::string kBinary = LONGHAUL_BINARY;
const std::string kMpirun = LONGHAUL_MPIRUN;
const std::string kData = LONGHAUL_TEST_DATA;

std::string run_line(int ranks, const std::string& model, const std::string& prompts,
                     const std::string& more) {
  return kMpirun + " -np " + std::to_string(ranks) + " " + kBinary + " run --backend cpu --model " +
         model + " --prompts " + prompts + " " + more;
}

TEST(Run, SameTokensOnAnyNumberOfRanks) {
  const std::string model = kData + "/golden/qwen3_moe";
  json first;
  for (int ranks : {1, 2, 3, 4, 8}) {
    const TemporaryFolder f;
    const Finished done =
        run_command(run_line(ranks, model, model + "/prompts.json",
                             "--generate 8 --chunk 500 --output " + (f / "o.json")),
                    120);
    ASSERT_EQ(done.exit_code, 0) << done.err;
    const json result = json::parse(read_text(f / "o.json"));
    EXPECT_EQ(result["ranks"], ranks);
    if (ranks == 1) first = result;
    for (size_t i = 0; i < result["sequences"].size(); ++i) {
      EXPECT_EQ(result["sequences"][i]["generated"], first["sequences"][i]["generated"]) << ranks;
      EXPECT_EQ(result["sequences"][i]["generated"].size(), 8u);
    }
  }
}

TEST(Run, OutputHasEveryKeyOfTheContract) {
  const TemporaryFolder f;
  const std::string model = kData + "/needle";
  // The two shortest prompts: enough to be judged.
  const std::string all = read_text(model + "/prompts.jsonl");
  const size_t second = all.find('\n', all.find('\n') + 1);
  write_text(f / "two.jsonl", all.substr(0, second + 1));
  const Finished done = run_command(
      run_line(2, model, f / "two.jsonl", "--generate 6 --dtype bf16 --output " + (f / "o.json")),
      120);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.out.find("right"), std::string::npos) << done.out;
  const json r = json::parse(read_text(f / "o.json"));
  for (const char* key : {"sequences", "ranks", "strategy", "layout", "backend", "dtype", "ttft_ms",
                          "prefill_tokens_per_s", "timing_ms", "communication_bytes", "imbalance"})
    EXPECT_TRUE(r.contains(key)) << key;
  for (const char* key : {"load", "embed", "qkv", "exchange_exposed", "exchange_hidden",
                          "attention", "mlp", "logits", "total"})
    EXPECT_TRUE(r["timing_ms"][key].is_number()) << key;
  for (const char* key : {"tokens", "area"}) EXPECT_GE(r["imbalance"][key], 1.0) << key;
  EXPECT_EQ(r["strategy"], "allgather");
  EXPECT_EQ(r["layout"], "balanced");
  EXPECT_EQ(r["dtype"], "bf16");
  const json& s = r["sequences"][0];
  EXPECT_EQ(s["id"], "needle-300");
  EXPECT_EQ(s["num_tokens"], 300);
  EXPECT_EQ(s["text"], "27611.");
  EXPECT_EQ(s["answer"], "27611");
  EXPECT_EQ(s["correct"], true);
}

TEST(Run, AWrongAnswerIsExitCodeOne) {
  const TemporaryFolder f;
  const std::string model = kData + "/needle";
  const std::string all = read_text(model + "/prompts.jsonl");
  json line = json::parse(all.substr(0, all.find('\n')));
  line["answer"] = "00000";
  write_text(f / "wrong.jsonl", line.dump() + "\n");
  const Finished done = run_command(run_line(2, model, f / "wrong.jsonl", "--generate 6"), 120);
  EXPECT_EQ(done.exit_code, 1) << done.err;
  EXPECT_NE(done.out.find("WRONG"), std::string::npos);
}

TEST(Run, SilentInAPipe) {
  const std::string model = kData + "/golden/llama";
  const Finished done = run_command(run_line(1, model, model + "/prompts.json", ""), 120);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(done.err.find('\r'), std::string::npos) << done.err;
}

TEST(Run, StopsAtTheEndOfText) {
  const TemporaryFolder f;
  const std::string golden = kData + "/golden/qwen3";
  for (const char* file : {"model.safetensors", "prompts.json"})
    std::filesystem::copy_file(golden + "/" + file, f / file);
  json config = json::parse(read_text(golden + "/config.json"));
  config["eos_token_id"] = 99;  // the second token that prompt 2 of this golden generates
  write_text(f / "config.json", config.dump());
  const Finished done =
      run_command(run_line(3, f.path(), f / "prompts.json",
                           "--generate 8 --stop-at-eos --output " + (f / "o.json")),
                  120);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const json r = json::parse(read_text(f / "o.json"));
  EXPECT_EQ(r["sequences"][2]["generated"], json::parse("[291, 99]"));
  EXPECT_EQ(r["sequences"][1]["generated"].size(), 8u);
}

}  // namespace
}  // namespace longhaul::test
