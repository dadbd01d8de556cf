// The HDF5 tools that people have must read what longhaul writes, 16-bit floats too.

#include <array>
#include <cstdio>
#include <regex>

#include "tests/unit/dump/simulated_run.h"

namespace longhaul::io {
namespace {

struct CommandResult {
  int status = -1;
  std::string text;
};

CommandResult run_command(const std::string& command) {
  CommandResult result;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.text.append(buffer.data(), n);
  result.status = ::pclose(pipe);
  // One blank for any white space: h5dump breaks lines as its version likes.
  result.text = std::regex_replace(result.text, std::regex("\\s+"), " ");
  return result;
}

bool have_h5dump() {
  return run_command("h5dump --version").status == 0;
}

TEST(ForeignReaders, H5dumpPrintsSixteenBitFloats) {
  if (!have_h5dump()) GTEST_SKIP() << "h5dump is not installed";
  TemporaryFolder folder;
  const fs::path path = folder / "halves.h5";
  Hdf5File file = Hdf5File::create(path, path.string());
  const std::vector<bf16> b = {bf16(1.0f), bf16(-2.5f), bf16(3.140625f), bf16(0x1p-126f)};
  const std::vector<uint16_t> h = {0x3c00, 0xc100, 0x7bff, 0x0001};
  file.create_dataset("/b", DType::bf16, Shape{4}, false).write_rows(0, 4, b.data());
  file.create_dataset("/h", DType::f16, Shape{4}, false).write_rows(0, 4, h.data());
  file.close();
  const CommandResult dump_b = run_command("h5dump -y -m %.9g -d /b " + path.string());
  EXPECT_EQ(dump_b.status, 0) << dump_b.text;
  // h5dump of HDF5 1.14.4 and later goes through _Float16, where the last value is too small.
  EXPECT_TRUE(dump_b.text.find("1, -2.5, 3.140625, 1.17549435e-38") != std::string::npos ||
              dump_b.text.find("1, -2.5, 3.140625, 0 ") != std::string::npos)
      << dump_b.text;
  const CommandResult dump_h = run_command("h5dump -y -m %.9g -d /h " + path.string());
  EXPECT_EQ(dump_h.status, 0) << dump_h.text;
  EXPECT_NE(dump_h.text.find("1, -2.5, 65504, 5.96046448e-08"), std::string::npos) << dump_h.text;
}

TEST(ForeignReaders, H5dumpReadsEveryFileOfADump) {
  if (!have_h5dump()) GTEST_SKIP() << "h5dump is not installed";
  TemporaryFolder folder;
  SimulatedRun run;
  run.cp = 2;
  run.tensors = small_model(3);
  run.steps = {{{0, 9}, {0, 4}}, {{9, 1}, {4, 1}}};
  run.write(folder / "dump");
  merge_dump(folder / "dump", folder / "merged.h5", false);
  for (const char* name : {"dump/rank_0000.h5", "dump/rank_0001.h5", "merged.h5"}) {
    const CommandResult result = run_command("h5dump " + (folder / name).string());
    EXPECT_EQ(result.status, 0) << result.text;
    EXPECT_NE(result.text.find("\"layers.00.q\""), std::string::npos);
    EXPECT_NE(result.text.find(" h d\""), std::string::npos);
  }
}

}  // namespace
}  // namespace longhaul::io
