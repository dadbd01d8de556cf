// Where output may go: never over what is there, unless told to, and never over anything else.

#include <sys/stat.h>

#include <fstream>

#include "runtime/io/glob.h"
#include "runtime/io/inspect.h"
#include "tests/unit/dump/simulated_run.h"

namespace longhaul::io {
namespace {

void touch(const fs::path& path) {
  std::ofstream(path) << "x";
}

TEST(OutputFiles, RefusedUnlessForced) {
  TemporaryFolder folder;
  const fs::path file = folder / "out.json";
  check_output_path(file, false);
  write_file_atomically(file, "one", false);
  EXPECT_EQ(read_small_file(file, 10), "one");
  expect_error(ExitCode::usage, {"out.json", "--force"}, [&] { check_output_path(file, false); });
  expect_error(ExitCode::usage, {"out.json", "--force"},
               [&] { write_file_atomically(file, "two", false); });
  EXPECT_EQ(read_small_file(file, 10), "one");
  write_file_atomically(file, "two", true);
  EXPECT_EQ(read_small_file(file, 10), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  struct stat info {};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07137u, 0u);  // 0640 at most
}

TEST(OutputFiles, AFileThatAppearsMeanwhileIsNotReplaced) {
  TemporaryFolder folder;
  const fs::path file = folder / "out.h5", temporary = temporary_path(file);
  check_output_path(file, false);
  touch(temporary);
  write_file_atomically(file, "theirs", false);
  expect_error(ExitCode::usage, {"out.h5", "exists"},
               [&] { publish_file(temporary, file, false); });
  EXPECT_EQ(read_small_file(file, 10), "theirs");
  EXPECT_FALSE(fs::exists(temporary));
}

TEST(OutputFiles, PlacesThatCannotBeWritten) {
  TemporaryFolder folder;
  expect_error(ExitCode::usage, {"no folder"},
               [&] { check_output_path(folder / "a/b.json", true); });
  expect_error(ExitCode::usage, {"no regular file"},
               [&] { check_output_path(folder.path(), true); });
  expect_error(ExitCode::usage, {"names no file"}, [&] { check_output_path("", true); });
  expect_error(ExitCode::usage, {"names no file"}, [&] { check_output_path(folder / "a/", true); });
  touch(folder / "file");
  expect_error(ExitCode::usage, {"cannot write"},
               [&] { check_output_path(folder / "file/x", true); });
  check_output_path("just_a_name.json", false);
}

TEST(DumpFolder, MadeOrEmptied) {
  TemporaryFolder folder;
  const fs::path dir = folder / "a/b/dump";
  prepare_dump_directory(dir, false);
  prepare_dump_directory(dir, false);  // empty still
  for (const char* name :
       {"rank_0000.h5", "rank_12345.h5.tmp", "manifest.json", "manifest.json.77-0.tmp"})
    touch(dir / name);
  expect_error(ExitCode::usage, {"dump", "--force"}, [&] { prepare_dump_directory(dir, false); });
  EXPECT_TRUE(fs::exists(dir / "manifest.json"));
  prepare_dump_directory(dir, true);
  EXPECT_TRUE(fs::is_empty(dir));
}

TEST(DumpFolder, NothingElseIsEverRemoved) {
  for (const char* name : {"notes.txt", "rank_1.h5", "rank_0000.h5.bak", "rank_00x0.h5",
                           "manifest.json.bak", ".hidden", "model.safetensors"}) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    touch(folder / "rank_0000.h5");
    touch(folder / name);
    for (const bool force : {false, true})
      expect_error(ExitCode::usage, {name}, [&] { prepare_dump_directory(folder.path(), force); });
    EXPECT_TRUE(fs::exists(folder / "rank_0000.h5"));
    EXPECT_TRUE(fs::exists(folder / name));
  }
  TemporaryFolder folder;
  fs::create_directory(folder / "rank_0000.h5");
  expect_error(ExitCode::usage, {"rank_0000.h5"},
               [&] { prepare_dump_directory(folder.path(), true); });
  TemporaryFolder links;
  touch(links / "elsewhere");
  fs::create_directory(links / "dump");
  fs::create_symlink(links / "elsewhere", links / "dump/manifest.json");
  expect_error(ExitCode::usage, {"manifest.json"},
               [&] { prepare_dump_directory(links / "dump", true); });
  expect_error(ExitCode::usage, {"elsewhere"},
               [&] { prepare_dump_directory(links / "elsewhere", true); });
}

TEST(DumpFolder, AWriterDoesNotFollowALinkInItsPlace) {
  TemporaryFolder folder;
  touch(folder / "precious");
  fs::create_directory(folder / "dump");
  fs::create_symlink(folder / "precious", folder / "dump/rank_0000.h5.tmp");
  expect_error(ExitCode::resource, {"rank_0000.h5"},
               [&] { HdfDump(folder / "dump", 0, 1, {}, SimulatedRun{}.info()); });
  EXPECT_EQ(read_small_file(folder / "precious", 10), "x");
}

TEST(DumpFolder, TwoWritersOfOneRankDoNotMix) {
  TemporaryFolder folder;
  SimulatedRun run;
  run.tensors = small_model(3);
  run.steps = {{{0, 5}}};
  run.write(folder / "dump");
  expect_error(ExitCode::usage, {"rank_0000.h5 exists"},
               [&] { HdfDump(folder / "dump", 0, 1, {}, run.info()); });
  merge_dump(folder / "dump", folder / "merged.h5", false);
  run.expect_merged(folder / "merged.h5");
}

TEST(Globs, MatchAsTheShellDoes) {
  struct Case {
    const char* pattern;
    const char* name;
    bool matches;
  };
  const Case cases[] = {{"*hidden", "layers.03.hidden", true},
                        {"*hidden", "layers.03.hidden2", false},
                        {"layers.0[0-3].*", "layers.02.k", true},
                        {"layers.0[0-3].*", "layers.04.k", false},
                        {"layers.0[!0-3].*", "layers.04.k", true},
                        {"layers.??.q", "layers.11.q", true},
                        {"logits", "logits", true},
                        {"logit", "logits", false},
                        {"*", ".anything", true},
                        {"[]x]", "]", true},
                        {"layers.[[:digit:]]1.q", "layers.01.q", true},
                        {"a\\*", "a*", true},
                        {"a\\*", "ab", false}};
  for (const Case& c : cases)
    EXPECT_EQ(GlobFilter({c.pattern}).matches(c.name), c.matches) << c.pattern << " " << c.name;
  EXPECT_TRUE(GlobFilter().matches("anything"));
  EXPECT_TRUE(GlobFilter({"a", "b*"}).matches("bc"));
  EXPECT_FALSE(GlobFilter({"a", "b*"}).matches("cb"));
}

TEST(Globs, MalformedOnesAreRefused) {
  for (const char* pattern : {"", "layers.0[0-3", "[", "[]", "[!]", "x\\", "[[:digit:", "a[\\]"})
    expect_error(ExitCode::usage, {"glob '" + std::string(pattern) + "'"}, [&] {
      GlobFilter({"fine", pattern});
    });
}

TEST(Dump, RefusesGridsWhoseRanksShareTokens) {
  TemporaryFolder folder;
  DumpInfo info;
  info.grid.tp = 2;
  expect_error(ExitCode::usage, {"--tp 2"}, [&] { HdfDump(folder.path(), 0, 2, {}, info); });
}

TEST(Dump, MisuseIsADefectAndNotABadFile) {
  TemporaryFolder folder;
  const std::vector<layout::SequenceExtent> batch = {{0, 6}};
  const auto l = layout::BatchLayout::make(layout::LayoutKind::zigzag, 1, batch);
  const std::vector<float> zeros(100);
  auto rows = [&](int64_t n, int64_t width) {
    return ConstTensorView{zeros.data(), DType::f32, Shape{n, width}};
  };
  auto misuse = [&](const char* what, const std::function<void(HdfDump&)>& use) {
    SCOPED_TRACE(what);
    HdfDump dump(folder.path(), 0, 1, {}, SimulatedRun{}.info());
    expect_error(ExitCode::internal, {""}, [&] { use(dump); });
  };
  misuse("no step", [&](HdfDump& d) { d.write("a", rows(6, 2), "t d"); });
  misuse("rows", [&](HdfDump& d) { d.begin_step(l, 0), d.write("a", rows(5, 2), "t d"); });
  misuse("name", [&](HdfDump& d) { d.begin_step(l, 0), d.write("a/b", rows(6, 2), "t d"); });
  misuse("twice", [&](HdfDump& d) {
    d.begin_step(l, 0);
    d.write("a", rows(6, 2), "t d");
    d.write("a", rows(6, 2), "t d");
  });
  misuse("step within step", [&](HdfDump& d) { d.begin_step(l, 0), d.begin_step(l, 0); });
  misuse("close within step", [&](HdfDump& d) { d.begin_step(l, 0), d.close(); });
  const std::vector<layout::SequenceExtent> gap = {{7, 6}}, next = {{6, 6}};
  misuse("a gap", [&](HdfDump& d) {
    d.begin_step(l, 0), d.end_step();
    d.begin_step(layout::BatchLayout::make(layout::LayoutKind::zigzag, 1, gap), 0);
  });
  misuse("a tensor left out", [&](HdfDump& d) {
    d.begin_step(l, 0), d.write("a", rows(6, 2), "t d"), d.end_step();
    d.begin_step(layout::BatchLayout::make(layout::LayoutKind::zigzag, 1, next), 0), d.end_step();
  });
  misuse("another width", [&](HdfDump& d) {
    d.begin_step(l, 0), d.write("a", rows(6, 2), "t d"), d.end_step();
    d.begin_step(layout::BatchLayout::make(layout::LayoutKind::zigzag, 1, next), 0);
    d.write("a", rows(6, 3), "t d");
  });
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Inspect, StatisticsOfKnownNumbers) {
  const std::vector<float> v = {3, -4, 0, NAN, INFINITY, -INFINITY, 1};
  ElementStatistics s;
  s.add({v.data(), DType::f32, Shape{7}});
  EXPECT_EQ(s.count(), 7);
  EXPECT_EQ(s.nan(), 1);
  EXPECT_EQ(s.inf(), 2);
  EXPECT_EQ(s.min(), -4);
  EXPECT_EQ(s.max(), 3);
  EXPECT_EQ(s.mean(), 0);
  EXPECT_DOUBLE_EQ(s.rms(), std::sqrt(26.0 / 4));
  const std::vector<double> large = {1e300, 1e300};
  ElementStatistics l;
  l.add({large.data(), DType::f64, Shape{2}});
  EXPECT_DOUBLE_EQ(l.rms(), 1e300);
  const std::vector<bf16> b(100000, bf16(1.5f));
  ElementStatistics sb;
  sb.add({b.data(), DType::bf16, Shape{100000}});
  EXPECT_EQ(sb.mean(), 1.5);
  EXPECT_EQ(ElementStatistics().rms(), 0);
}

TEST(Inspect, SeesWhatADumpHolds) {
  TemporaryFolder folder;
  SimulatedRun run;
  run.cp = 3;
  run.tensors = small_model(4);
  run.steps = {{{0, 2}}};  // zigzag: two tokens, so some ranks have none
  run.write(folder / "dump");
  const Inspection dump = inspect_path(folder / "dump", true);
  EXPECT_EQ(dump.kind, "dump");
  ASSERT_EQ(dump.tensors.size(), run.tensors.size());
  EXPECT_EQ(dump.tensors[2].name, "layers.00.k");
  EXPECT_EQ(dump.tensors[2].dims, "t[cp:zigzag] h d");
  EXPECT_EQ(dump.tensors[2].shape, (std::vector<int64_t>{2, 1, 4}));
  EXPECT_EQ(dump.tensors[2].ranks.size(), 2u);
  EXPECT_EQ(dump.tensors[2].statistics->count(), 8);
  merge_dump(folder / "dump", folder / "merged.h5", false);
  const Inspection merged = inspect_path(folder / "merged.h5", true);
  EXPECT_EQ(merged.kind, "merged");
  EXPECT_EQ(merged.bytes, dump.bytes);
  EXPECT_EQ(inspect_path(folder / "dump/rank_0000.h5", false).kind, "dump-rank");
  touch(folder / "text");
  expect_error(ExitCode::corrupt, {"no HDF5"}, [&] { inspect_path(folder / "text", false); });
  expect_error(ExitCode::usage, {"neither"}, [&] { inspect_path(folder.path(), false); });
}

}  // namespace
}  // namespace longhaul::io
