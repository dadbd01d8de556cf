// Bad index files, shards that disagree with them, and folders that hold no checkpoint.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <string>
#include <vector>

#include "runtime/io/checkpoint.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

// A tensor of four bytes.
std::string shard(const std::string& tensor) {
  return safetensors_bytes(
      "{\"" + tensor + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4U);
}
std::string index(const std::string& weight_map, const std::string& metadata = "{}") {
  return R"({"metadata":)" + metadata + R"(,"weight_map":{)" + weight_map + "}}";
}

// A folder with shards s1 {"a"} and s2 {"b"} and this index.
void make_folder(const TemporaryFolder& dir, const std::string& index_text) {
  write_bytes(dir / "s1.safetensors", shard("a"));
  write_bytes(dir / "s2.safetensors", shard("b"));
  write_bytes(dir / kIndex, index_text);
}

const std::string kMap = R"("a":"s1.safetensors","b":"s2.safetensors")";

TEST(BadIndex, GoodOnesAreAccepted) {
  for (const std::string metadata :
       {"{}", "null", R"({"total_size":8})", R"({"total_size":8.0,"total_parameters":2})"}) {
    const TemporaryFolder dir;
    make_folder(dir, index(kMap, metadata));
    EXPECT_EQ(io::open_safetensors(dir.path())->list().size(), 2U) << metadata;
  }
  const TemporaryFolder dir;
  make_folder(dir, R"({"weight_map":{)" + kMap + "}}");
  EXPECT_EQ(io::open_safetensors(dir.path())->total_bytes(), 8);
}

TEST(BadIndex, MalformedOnesAreCorrupt) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"empty", "", "empty"},
      {"blank", " \n", "empty"},
      {"no JSON", "weight_map", "malformed JSON at line 1, column 1"},
      {"cut short", index(kMap).substr(0, 50), "malformed JSON"},
      {"a list", "[]", "holds [], not an object"},
      {"a number", "1", "holds 1"},
      {"not UTF-8", "{\"weight_map\":{\"\xff\":\"s1.safetensors\"}}", "not UTF-8 at byte 16"},
      {"NUL byte", index(kMap) + std::string(1, '\0'), "malformed JSON"},
      {"too deep", R"({"weight_map":{"a":[[[["x"]]]]}})", "deeper than 4"},
      {"tensor twice", index(R"("a":"s1.safetensors","a":"s2.safetensors")"), "'a' occurs twice"},
      {"map twice", R"({"weight_map":{},"weight_map":{}})", "occurs twice"},
      {"no map", R"({"metadata":{}})", "weight_map is missing"},
      {"map null", R"({"weight_map":null})", "weight_map is null"},
      {"map a list", R"({"weight_map":["a"]})", "weight_map is [\"a\"]"},
      {"map empty", index(""), "names no tensor"},
      {"file a number", index(R"("a":1)"), "the file of 'a' is 1"},
      {"file null", index(R"("a":null)"), "the file of 'a' is null"},
      {"file a list", index(R"("a":["s1.safetensors"])"), "not a string"},
      {"metadata a list", index(kMap, "[]"), "metadata is []"},
      {"total_size a string", index(kMap, R"({"total_size":"8"})"), "total_size is \"8\""},
      {"total_size negative", index(kMap, R"({"total_size":-8})"), "total_size is -8"},
      {"total_size a fraction", index(kMap, R"({"total_size":8.5})"), "total_size is 8.5"},
  };
  for (const auto& [label, text, part] : cases) {
    const TemporaryFolder dir;
    make_folder(dir, text);
    expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                   {kIndex, part}, label);
  }
}

TEST(BadIndex, OnlyPlainFileNamesAreOpened) {
  for (const std::string file :
       {"../s1.safetensors", "/etc/passwd", "/s1.safetensors", "sub/s1.safetensors", "..", ".",
        ".s1.safetensors", "", "s1.bin", "s1.safetensors/", "a\\\\..\\\\s1.safetensors",
        "s1\\u0000.safetensors", "s1\\n.safetensors", "./s1.safetensors", "~/s1.safetensors",
        "pytorch_model.bin", "file:///s1.safetensors"}) {
    const TemporaryFolder dir;
    make_folder(dir, index("\"a\":\"" + file + "\""));
    expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                   {kIndex, "the file of 'a' is", "plain names"}, file);
  }
  const TemporaryFolder dir;
  make_folder(dir, index("\"a\":\"" + std::string(300, 'x') + ".safetensors\""));
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                 {"plain names"}, "long name");
}

TEST(BadIndex, ShardsThatDisagreeAreMismatches) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"shard missing", index(kMap + R"(,"c":"s3.safetensors")"),
       "1 of 3 shards missing, the first 's3.safetensors'"},
      {"tensor not in its shard", index(kMap + R"(,"c":"s2.safetensors")"),
       "tensor 'c' should be in"},
      {"tensor in another shard", index(R"("a":"s2.safetensors","b":"s1.safetensors")"),
       "but is in 's1.safetensors'"},
      {"tensor not listed", index(R"("a":"s1.safetensors","x":"s2.safetensors")"), "tensor 'x'"},
      {"total_size too large", index(kMap, R"({"total_size":9})"), "total_size is 9"},
      {"total_size too small", index(kMap, R"({"total_size":0})"), "the shards hold 8 bytes"},
      {"total_size huge", index(kMap, R"({"total_size":18446744073709551615})"), "total_size"},
  };
  for (const auto& [label, text, part] : cases) {
    const TemporaryFolder dir;
    make_folder(dir, text);
    expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::mismatch,
                   {kIndex, part}, label);
  }
}

TEST(BadIndex, ATensorThatOnlyTheShardHasIsAMismatch) {
  const TemporaryFolder dir;
  make_folder(dir, index(kMap));
  write_bytes(dir / "s2.safetensors",
              safetensors_bytes(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                                    "c":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                8U));
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::mismatch,
                 {"does not list tensor 'c' of 's2.safetensors'"}, "extra tensor");
}

TEST(BadIndex, ATensorInTwoShardsIsAMismatch) {
  const TemporaryFolder dir;
  make_folder(dir, index(kMap));
  write_bytes(dir / "s2.safetensors", shard("a"));
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::mismatch,
                 {"tensor 'a' is in 's1.safetensors' and again in 's2.safetensors'"}, "twice");
}

TEST(BadIndex, ADamagedShardIsNamed) {
  const TemporaryFolder dir;
  make_folder(dir, index(kMap));
  write_bytes(dir / "s2.safetensors", shard("b").substr(0, 30));
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                 {"s2.safetensors", "cut short"}, "cut shard");
}

TEST(BadFolder, NoCheckpointIsAUsageError) {
  const TemporaryFolder dir;
  const auto open = [](const std::filesystem::path& path) {
    return [path] { (void)io::open_safetensors(path); };
  };
  expect_refused(open(dir / "nowhere"), ExitCode::usage, {"nowhere", "no such model folder"},
                 "none");
  expect_refused(open(dir.path()), ExitCode::usage,
                 {"neither model.safetensors nor model.safetensors.index.json"}, "empty folder");
  write_bytes(dir / "file", "x");
  expect_refused(open(dir / "file"), ExitCode::usage, {"not a folder"}, "a file");
  write_bytes(dir / "weights.safetensors", kMap);
  expect_refused(open(dir.path()), ExitCode::usage,
                 {"'weights.safetensors' needs one of these names"}, "another name");
  write_bytes(dir / "pytorch_model.bin", "x");
  expect_refused(open(dir.path()), ExitCode::usage,
                 {"'pytorch_model.bin' is another format, convert it to safetensors"}, "pickle");
}

TEST(BadFolder, WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  const TemporaryFolder dir;
  ASSERT_EQ(::mkfifo((dir / "model.safetensors").c_str(), 0600), 0);
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                 {"model.safetensors", "not a regular file"}, "a pipe");
  const TemporaryFolder other;
  std::filesystem::create_directory(other / "model.safetensors");
  expect_refused([&] { (void)io::open_safetensors(other.path()); }, ExitCode::corrupt,
                 {"not a regular file"}, "a folder");
  const TemporaryFolder third;
  std::filesystem::create_symlink("/dev/zero", third / "model.safetensors");
  expect_refused([&] { (void)io::open_safetensors(third.path()); }, ExitCode::corrupt,
                 {"not a regular file"}, "a device");
}

}  // namespace
}  // namespace longhaul::test
