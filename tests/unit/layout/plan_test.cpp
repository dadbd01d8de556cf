// `longhaul plan` as a person or a script meets it: the binary itself is run.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace {

namespace fs = std::filesystem;

struct Result {
  int code = -1;
  std::string out, err;
};

std::string read(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Plan : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "longhaul_plan_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result run(const std::string& arguments) const {
    const fs::path err = folder_ / "stderr";
    std::string command = LONGHAUL_BINARY;
    command.append(" plan ").append(arguments).append(" 2>").append(err.string());
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return {};
    Result result;
    std::array<char, 4096> buffer{};
    while (size_t n = fread(buffer.data(), 1, buffer.size(), pipe))
      result.out.append(buffer.data(), n);
    const int status = pclose(pipe);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.err = read(err);
    return result;
  }

  // One line on stderr that names the trouble, nothing on stdout, the documented code.
  void refused(const std::string& arguments, const std::string& part, int code = 2) const {
    SCOPED_TRACE(arguments);
    const Result r = run(arguments);
    EXPECT_EQ(r.code, code);
    EXPECT_EQ(r.out, "");
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
  }

  fs::path folder_;
};

std::string join(const nlohmann::json& numbers) {
  std::string text;
  for (const auto& n : numbers) {
    if (!text.empty()) text.push_back(',');
    text.append(n.dump());
  }
  return text;
}

TEST_F(Plan, JsonHasEveryFieldOfTheSharedCases) {
  std::ifstream file(LONGHAUL_TEST_DATA "/layout/cases.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_FALSE(cases.empty());
  for (const auto& expected : cases) {
    std::string arguments = "--layout zigzag --json --cp ";
    arguments.append(expected["cp"].dump())
        .append(" --lengths ")
        .append(join(expected["extend_lens"]));
    arguments.append(" --prefix ").append(join(expected["prefix_lens"]));
    const Result r = run(arguments);
    ASSERT_EQ(r.code, 0) << r.err;
    const nlohmann::json got = nlohmann::json::parse(r.out);
    for (const auto& [key, value] : expected.items())
      if (key != "ranks") {
        EXPECT_EQ(got.at(key), value) << key;
      }
    ASSERT_EQ(got["ranks"].size(), expected["ranks"].size());
    for (size_t i = 0; i < expected["ranks"].size(); ++i)
      for (const auto& [key, value] : expected["ranks"][i].items())
        EXPECT_EQ(got["ranks"][i].at(key), value) << key << " of rank " << i;
    EXPECT_EQ(got["layout"], "zigzag");
    EXPECT_GE(got["imbalance"]["area"].get<double>(), 1.0);
    EXPECT_GE(got["imbalance"]["tokens"].get<double>(), 1.0);
  }
}

TEST_F(Plan, BytesFollowTheHeads) {
  const Result r = run("--cp 2 --lengths 8 --layout zigzag --heads 32/4 --head-dim 128 --json");
  ASSERT_EQ(r.code, 0) << r.err;
  const nlohmann::json got = nlohmann::json::parse(r.out);
  // Rank 0 needs the four tokens of rank 1; 2 (K and V) x 4 heads x 128 x 2 bytes each.
  EXPECT_EQ(got["ranks"][0]["received_tokens"], 4);
  EXPECT_EQ(got["ranks"][0]["received_bytes_per_layer"], 4 * 2 * 4 * 128 * 2);
  EXPECT_EQ(got["ranks"][1]["received_tokens"], 2);
  EXPECT_EQ(got["ranks"][0]["area"], 3 + 15);
  EXPECT_EQ(got["ranks"][0]["attention_flops_per_layer"], 4 * 32 * 128 * 18);
}

TEST_F(Plan, LengthsTakeSuffixesAndRepetition) {
  const Result r = run("--cp 4 --lengths 2*16K,3,2x1k --prefix 5*0 --json");
  ASSERT_EQ(r.code, 0) << r.err;
  const nlohmann::json got = nlohmann::json::parse(r.out);
  EXPECT_EQ(got["extend_lens"], nlohmann::json::parse("[16384,16384,3,1024,1024]"));
  EXPECT_EQ(got["layout"], "balanced");
}

TEST_F(Plan, TableNamesRanksAndImbalances) {
  const Result r = run("--cp 3 --lengths 100,200 --prefix 10,0");
  ASSERT_EQ(r.code, 0) << r.err;
  for (const char* part : {"balanced layout: 3 ranks, 2 sequences, 300 new tokens on 10 cached",
                           "zigzag", "lower bound", "KV received"})
    EXPECT_NE(r.out.find(part), std::string::npos) << r.out;
  EXPECT_EQ(r.err, "");
}

TEST_F(Plan, SvgIsWrittenOnceAndNotOverwritten) {
  const std::string file = (folder_ / "plan.svg").string();
  const std::string base =
      std::string("--cp 4 --layout zigzag --lengths 100,20 --prefix 7,0 --svg ").append(file);
  Result r = run(base);
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "");
  const std::string first = read(file);
  EXPECT_EQ(first.rfind("<svg ", 0), 0u);
  EXPECT_NE(first.find("</svg>"), std::string::npos);
  EXPECT_NE(first.find("rank 3 next"), std::string::npos);
  refused(base, "exists: choose another name or add --force");
  EXPECT_EQ(read(file), first);
  r = run(std::string("--cp 2 --lengths 100 --force --svg ").append(file));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(read(file), first);
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos);
}

TEST_F(Plan, SvgThatCannotBeWritten) {
  const std::string missing = (folder_ / "no" / "plan.svg").string();
  refused(std::string("--cp 2 --lengths 9 --svg ").append(missing), "there is no folder");
  refused(std::string("--cp 2 --lengths 9 --svg ").append(folder_.string()), "it is a folder");
  // A file size limit stands in for a full disk; it must leave no file under the name.
  const fs::path full = folder_ / "full.svg";
  std::string arguments = "--cp 64 --lengths 64*1000 --svg ";
  std::string command = "bash -c 'trap \"\" XFSZ; ulimit -f 1; exec ";
  command.append(LONGHAUL_BINARY).append(" plan ").append(arguments).append(full.string());
  command.append("' 2>").append((folder_ / "stderr").string());
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 5);
  EXPECT_NE(read(folder_ / "stderr").find("cannot write"), std::string::npos);
  EXPECT_FALSE(fs::exists(full));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator{}), 1);
}

TEST_F(Plan, BadInputIsOneLineAndExitTwo) {
  refused("--cp 4 --lengths 9,10 --prefix 2", "--prefix has 1 numbers, --lengths has 2");
  refused("--cp 4 --lengths 9,0", "--lengths: 0 is too small");
  refused("--cp 4 --lengths=-9", "--lengths: -9 is too small");
  refused("--cp 4 --lengths 9,abc", "'abc' is not a number");
  refused("--cp 4 --lengths 9,", "a number is missing");
  refused("--cp 4 --lengths ''", "a number is missing");
  refused("--cp 4 --lengths 9.5", "'9.5' is not a number");
  refused("--cp 4 --lengths 9 --prefix=-1", "--prefix: -1 is too small");
  refused("--cp 4 --lengths 99999999999999999999", "beyond 2^60");
  refused("--cp 4 --lengths 9223372036854775807", "beyond 2^60");
  refused("--cp 4 --lengths 9000000000000000K", "beyond 2^60");
  refused("--cp 4 --lengths 2*800000000000000000", "together more than 2^60");
  refused("--cp 4 --lengths 999999999999*1", "more than");
  refused("--cp 4096 --lengths 100000*1", "blocks");
  refused("--cp 0 --lengths 9", "--cp: 0 is too small");
  refused("--cp=-3 --lengths 9", "--cp: -3 is too small");
  refused("--cp x --lengths 9", "'x' is not a number");
  refused("--cp 99999 --lengths 9", "more than 4096");
  refused("--cp 4 --lengths 9 --layout zigzga", "did you mean 'zigzag'");
  refused("--cp 4 --lengths 9 --layout qqq", "choose balanced, zigzag or contiguous");
  refused("--cp 4 --lengths 9 --heads 32/5 --head-dim 128", "cannot share");
  refused("--cp 4 --lengths 9 --heads 32/4", "--head-dim");
  refused("--cp 4 --lengths 9 --heads 4 --head-dim 128 --dtype f33", "unknown dtype");
  refused("--cp 4", "--lengths");
  refused("--lengths 9", "--cp");
}

TEST_F(Plan, AClosedStdoutIsNoticed) {
  std::string command = LONGHAUL_BINARY;
  command.append(" plan --cp 4 --lengths 9 --json >/dev/full 2>/dev/null");
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 5);
}

}  // namespace
