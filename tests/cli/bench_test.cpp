// `longhaul bench` as a person starts it, on CPU cores: what it prints, that its results are
// checked, and one clear line for whatever is wrong with the command line.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

using nlohmann::json;

const std::string kBinary = LONGHAUL_BINARY;
const std::string kMpirun = LONGHAUL_MPIRUN;
const std::string kData = LONGHAUL_TEST_DATA;
const std::string kMoe = "moe --backend cpu --experts 4 --top-k 2 --hidden 64 --intermediate 32 ";
const std::string kAttention = "attention --backend cpu --heads 4/2 --head-dim 32 --lengths 40 ";

std::string bench(const std::string& arguments) {
  return kBinary + " bench " + arguments;
}

std::string under_mpirun(int ranks, const std::string& command) {
  return kMpirun + " -np " + std::to_string(ranks) + " " + command;
}

void expect_complaint(const std::string& command, int exit_code,
                      const std::vector<std::string>& words) {
  const Finished f = run_command(command, 60);
  EXPECT_EQ(f.exit_code, exit_code) << command << "\n" << f.err;
  const auto lines = lines_with_prefix(f.err, "longhaul");
  ASSERT_EQ(lines.size(), 1u) << command << "\n" << f.err;
  for (const std::string& word : words)
    EXPECT_NE(lines.front().find(word), std::string::npos)
        << "'" << word << "' is not in: " << lines.front();
}

json expect_good(const std::string& command) {
  const Finished f = run_command(command, 120);
  EXPECT_EQ(f.exit_code, 0) << command << "\n" << f.err;
  return json::parse(f.out, nullptr, false);
}

TEST(BenchBadInput, Types) {
  for (const std::string& what :
       {kAttention, kMoe, std::string("linear "), "prefill --model " + kData + "/golden/qwen3 "}) {
    expect_complaint(bench(what + "--dtype f16"), 2, {"--dtype", "f16", "bf16"});
    expect_complaint(bench(what + "--dtype i32"), 2, {"--dtype", "i32"});
    expect_complaint(bench(what + "--dtype ''"), 2, {"--dtype"});
  }
}

TEST(BenchBadInput, NumbersOutOfRange) {
  const std::string prefill = "prefill --model " + kData + "/golden/qwen3 ";
  expect_complaint(bench(prefill + "--lengths 0"), 2, {"--lengths", "'0'", "whole number from 1"});
  expect_complaint(bench(prefill + "--lengths 8,-3"), 2, {"--lengths", "'-3'"});
  expect_complaint(bench(prefill + "--threads 0"), 2, {"--threads", "1024"});
  expect_complaint(bench(prefill + "--threads 1.5"), 2, {"--threads", "'1.5'"});
  expect_complaint(bench(prefill + "--repeat many"), 2, {"--repeat", "'many'"});
  expect_complaint(bench(prefill + "--repeat 99999999999999999999"), 2, {"--repeat"});
  expect_complaint(bench(prefill + "--chunk -1"), 2, {"--chunk", "'-1'", "from 0"});
  expect_complaint(bench(prefill + "--timeout 0"), 2, {"--timeout", "0.5"});
  expect_complaint(bench(prefill + "--ranks 0"), 2, {"--ranks", "'0'"});
  expect_complaint(bench(prefill + "--ranks 5"), 2, {"--ranks", "5", "mpirun"});
  expect_complaint(bench(kAttention + "--prefix -1"), 2, {"--prefix", "'-1'"});
  expect_complaint(bench("attention --backend cpu --lengths 0"), 2, {"--lengths", "'0'"});
  expect_complaint(bench("attention --backend cpu --head-dim 0"), 2, {"--head-dim", "4096"});
  expect_complaint(bench(kMoe + "--tokens 0"), 2, {"--tokens", "'0'"});
  expect_complaint(bench("moe --backend cpu --experts 2000"), 2, {"--experts", "1024"});
  expect_complaint(bench("moe --backend cpu --experts 2 --top-k 3"), 2, {"--top-k", "3", "2"});
  expect_complaint(bench("linear --rows 0"), 2, {"--rows", "'0'"});
}

TEST(BenchBadInput, WordsAndShapes) {
  expect_complaint(bench("attention --backend cpu --heads 32/5"), 2, {"--heads", "divide"});
  expect_complaint(bench("attention --backend cpu --heads 32/"), 2, {"--heads", "32/4"});
  expect_complaint(bench("attention --backend cpu --heads x"), 2, {"--heads", "'x'"});
  expect_complaint(bench(kAttention + "--prefix 1,2,3"), 2, {"--prefix", "3", "--lengths"});
  expect_complaint(bench(kAttention + "--share 4/4"), 2, {"--share", "3/4"});
  expect_complaint(bench(kAttention + "--share 1"), 2, {"--share", "1/4"});
  expect_complaint(bench(kAttention + "--share 1/4"), 2, {"--share", "GPU"});
  expect_complaint(bench(kAttention + "--rested"), 2, {"--rested", "GPU"});
  expect_complaint(bench(kAttention + "--layout zigzak"), 2, {"zigzak", "zigzag"});
  expect_complaint(bench(kAttention + "--exchange carrier-pigeon"), 2, {"--exchange", "nccl"});
  expect_complaint(bench("attention --backend referense"), 2, {"referense", "reference"});
  expect_complaint(bench("atention"), 2, {"atention", "attention"});
  expect_complaint(bench("comm --backend cpu"), 2, {"mpirun", "2 ranks"});
  expect_complaint(bench("comm --sizes 1Q"), 2, {"--sizes", "'1Q'", "64K"});
  expect_complaint(under_mpirun(2, bench("comm --backend cpu --exchange peer")), 2,
                   {"--exchange", "GPU"});
  expect_complaint(under_mpirun(2, bench(kAttention)), 2, {"one rank", "2"});
  expect_complaint(under_mpirun(2, bench(kMoe)), 2, {"one rank", "2"});
  expect_complaint(under_mpirun(2, bench(kAttention + "--layout zigzak")), 2, {"zigzak"});
}

TEST(BenchBadInput, ResultsThatNobodyCanRead) {
  for (const std::string& what :
       {kAttention, kMoe + "--tokens 8 ", std::string("linear --in 64 --out 32 --rows 4 "),
        "prefill --lengths 20 --repeat 1 --model " + kData + "/golden/qwen3 "})
    for (const char* where : {"> /dev/full", ">&-", "--json > /dev/full"})
      expect_complaint(bench(what + where), 5, {"stdout"});
  expect_complaint(under_mpirun(2, "bash -c '" + bench("comm --backend cpu --sizes 64 --repeat 1") +
                                       " > /dev/full'"),
                   5, {"stdout"});
}

TEST(Bench, AttentionOnCpuCores) {
  const json j = expect_good(bench(kAttention + "--repeat 2 --prefix 7 --json"));
  EXPECT_EQ(j["backend"], "cpu");
  EXPECT_LT(j["error"], 0.1);
}

TEST(Bench, ExpertsAreChecked) {
  for (const char* dtype : {"bf16", "f32"}) {
    const json j = expect_good(bench(kMoe + "--tokens 5,64 --json --dtype " + dtype));
    ASSERT_EQ(j["results"].size(), 2u) << j;
    EXPECT_EQ(j["ok"], true) << j;
    for (const json& row : j["results"]) {
      EXPECT_GT(row["block_tflops"], 0) << j;
      EXPECT_LE(row["error"], row["error_bound"]) << j;
    }
  }
}

TEST(Bench, CommunicationOfCpuRanks) {
  const json j =
      expect_good(under_mpirun(3, bench("comm --backend cpu --sizes 1,64K --repeat 1 --json")));
  EXPECT_EQ(j["ok"], true) << j;
  EXPECT_EQ(j["results"].size(), 8u) << j;
  for (const json& row : j["results"]) EXPECT_EQ(row["wrong"], 0) << j;
}

TEST(Bench, PrefillsOfEachLength) {
  const json j = expect_good(
      under_mpirun(2, bench("prefill --backend cpu --lengths 30,50 --each --repeat 1 --json "
                            "--model " +
                            kData + "/golden/qwen3_moe")));
  ASSERT_EQ(j["results"].size(), 4u) << j;
  for (const json& row : j["results"]) {
    EXPECT_EQ(row["same_tokens"], true) << j;
    EXPECT_GT(row["tflops_per_rank"], 0) << j;
  }
  EXPECT_EQ(j["results"][3]["lengths"][0], 50) << j;
}

}  // namespace
}  // namespace longhaul::test
