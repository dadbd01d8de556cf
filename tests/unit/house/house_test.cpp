// The shape of the house: dependencies point down only, libraries stay in their boxes, files stay
// short enough to read.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = LONGHAUL_SOURCE_DIR;

struct Include {
  std::string file;  // relative to the source folder
  int line = 0;
  std::string target;
};

// What each box may include besides itself. A box is the longest prefix that fits.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"runtime/core", {}},
    {"runtime/layout", {"runtime/core"}},
    {"runtime/ops", {"runtime/core"}},
    {"runtime/io", {"runtime/core", "runtime/layout", "runtime/ops"}},
    {"comm", {"runtime/core", "runtime/layout"}},
    // Backends compute on local tensors: they never see a communicator.
    {"attention/backends", {"runtime/core", "runtime/layout", "runtime/ops", "attention"}},
    {"attention", {"runtime/core", "runtime/layout", "runtime/ops", "comm", "attention/backends"}},
    {"moe", {"runtime/core", "runtime/layout", "runtime/ops", "comm"}},
    {"runtime/model",
     {"runtime/core", "runtime/layout", "runtime/ops", "runtime/io", "comm", "attention", "moe"}},
    {"apps",
     {"runtime/core", "runtime/layout", "runtime/ops", "runtime/io", "runtime/model", "comm",
      "attention", "attention/backends", "moe"}},
};

// Headers of libraries that only some boxes may know.
const std::map<std::string, std::set<std::string>> kLibraries = {
    {"mpi.h", {"comm"}},
    {"hdf5.h", {"runtime/io"}},
    {"nccl.h", {"comm"}},
    {"cublasLt.h", {"runtime/ops"}},
    {"dnnl.hpp", {"runtime/ops", "attention/backends"}},
    {"CLI/CLI.hpp", {"apps"}},
};

std::string box_of(const std::string& path) {
  std::string best;
  for (const auto& [box, allowed] : kAllowed)
    if (path.starts_with(box + "/") && box.size() > best.size()) best = box;
  return best;
}

std::vector<fs::path> sources() {
  std::vector<fs::path> files;
  for (const char* top : {"runtime", "comm", "attention", "moe", "apps"})
    for (const auto& e : fs::recursive_directory_iterator(kSource / top)) {
      const std::string x = e.path().extension();
      if (x == ".h" || x == ".cpp" || x == ".cu" || x == ".cuh") files.push_back(e.path());
    }
  return files;
}

std::vector<Include> includes() {
  static const std::regex pattern(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<Include> all;
  for (const fs::path& path : sources()) {
    std::ifstream in(path);
    std::string line;
    for (int n = 1; std::getline(in, line); ++n) {
      std::smatch m;
      if (std::regex_search(line, m, pattern))
        all.push_back({fs::relative(path, kSource).string(), n, m[1]});
    }
  }
  return all;
}

std::string forbidden(const Include& i) {
  const std::string from = box_of(i.file), to = box_of(i.target);
  if (from.empty()) return "is in no box";
  if (!to.empty() && to != from && !kAllowed.at(from).contains(to))
    return from + " must not include " + to;
  const auto library = kLibraries.find(i.target);
  if (library != kLibraries.end() && !library->second.contains(from))
    return from + " must not know " + i.target;
  return "";
}

TEST(House, IncludesPointDownOnly) {
  const auto all = includes();
  ASSERT_GT(all.size(), 100u);  // the scan works
  for (const Include& i : all)
    EXPECT_EQ(forbidden(i), "") << i.file << ":" << i.line << " includes " << i.target;
}

TEST(House, TheRuleFindsForbiddenIncludes) {
  EXPECT_NE(forbidden({"runtime/core/x.h", 1, "runtime/layout/batch_layout.h"}), "");
  EXPECT_NE(forbidden({"attention/backends/cpu.cpp", 1, "comm/communicator.h"}), "");
  EXPECT_NE(forbidden({"moe/router.cpp", 1, "attention/backend.h"}), "");
  EXPECT_NE(forbidden({"runtime/model/engine.cpp", 1, "apps/command.h"}), "");
  EXPECT_NE(forbidden({"apps/run.cpp", 1, "mpi.h"}), "");
  EXPECT_EQ(forbidden({"attention/context_parallel.cpp", 1, "comm/communicator.h"}), "");
}

TEST(House, FilesAreShortEnoughToRead) {
  for (const fs::path& path : sources()) {
    std::ifstream in(path);
    int lines = 0;
    for (std::string line; std::getline(in, line);) ++lines;
    EXPECT_LE(lines, 400) << path;
  }
}

}  // namespace
