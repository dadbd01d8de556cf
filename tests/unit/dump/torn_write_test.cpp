// Full disks, limits and kill -9: no unfinished file ever carries a final name, and a full disk is
// one line that names the file and how much was written.

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <regex>
#include <thread>

#include "tests/unit/dump/simulated_run.h"

namespace longhaul::io {
namespace {

// Runs `work` in a child. What it throws comes back as "<code> <message>"; 0 is good.
struct ChildResult {
  int status = 0;
  std::string text;
  int exit_code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }
};

ChildResult in_child(const std::function<void()>& work) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    int code = 0;
    std::string text;
    try {
      work();
    } catch (const Error& e) {
      code = static_cast<int>(e.code());
      text = e.what();
    } catch (const std::exception& e) {
      code = 99;
      text = e.what();
    }
    if (::write(ends[1], text.data(), text.size()) < 0) code = 98;
    ::close(ends[1]);
    // Not _exit: HDF5 must also survive its own clean-up at exit after a full disk.
    std::exit(code);
  }
  ::close(ends[1]);
  ChildResult result;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    result.text.append(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  ::waitpid(child, &result.status, 0);
  return result;
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  if (!fs::exists(dir)) return names;
  for (const auto& entry : fs::directory_iterator(dir))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

SimulatedRun large_run() {
  SimulatedRun run;
  run.cp = 2;
  run.tensors = {{"embedding", DType::f32, {4096}, "t d"},
                 {"layers.00.k", DType::bf16, {2, 64}, "t h d"},
                 {"logits", DType::f32, {3000}, "t v"}};
  run.steps = {{{0, 90}, {0, 31}}, {{90, 1}, {31, 1}}};
  return run;
}

void limit_file_size(int64_t bytes) {
  const rlimit limit{static_cast<rlim_t>(bytes), static_cast<rlim_t>(bytes)};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) throw std::runtime_error("setrlimit");
}

// The message says which file, why, and how many bytes there were.
void expect_full_disk(const ChildResult& result, const std::string& file) {
  EXPECT_EQ(result.exit_code(), static_cast<int>(ExitCode::resource)) << result.text;
  EXPECT_NE(result.text.find(file), std::string::npos) << result.text;
  EXPECT_TRUE(std::regex_search(result.text, std::regex("(after|of) [0-9]+ bytes"))) << result.text;
  EXPECT_EQ(result.text.find('\n'), std::string::npos) << result.text;
}

TEST(TornWrites, ADumpThatHitsTheFileSizeLimitLeavesNothing) {
  TemporaryFolder folder;
  const SimulatedRun run = large_run();
  run.write(folder / "whole");
  const auto size = static_cast<int64_t>(fs::file_size(folder / "whole/rank_0000.h5"));
  for (int i = 0; i < 50; ++i) {
    const int64_t limit = size * i / 50;
    SCOPED_TRACE(fmt::format("{} of {} bytes", limit, size));
    fs::create_directory(folder / "dump");
    const ChildResult result = in_child([&] {
      limit_file_size(limit);
      HdfDump dump(folder / "dump", 0, run.cp, {}, run.info());
      run.feed(dump, 0);
      dump.close();
    });
    expect_full_disk(result, "rank_0000.h5");
    EXPECT_EQ(names_in(folder / "dump"), std::vector<std::string>{});
    fs::remove_all(folder / "dump");
  }
}

TEST(TornWrites, AMergeThatHitsTheFileSizeLimitLeavesNothing) {
  TemporaryFolder folder;
  large_run().write(folder / "dump");
  for (const int64_t limit : {0, 1000, 100'000, 1'000'000, 3'000'000}) {
    const ChildResult result = in_child([&] {
      limit_file_size(limit);
      merge_dump(folder / "dump", folder / "merged.h5", false);
    });
    expect_full_disk(result, "merged.h5");
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"dump"});
  }
}

TEST(TornWrites, ATextFileThatHitsTheLimitLeavesTheOldOne) {
  TemporaryFolder folder;
  write_file_atomically(folder / "out.json", "old", false);
  const ChildResult result = in_child([&] {
    limit_file_size(100);
    write_file_atomically(folder / "out.json", std::string(5000, 'x'), true);
  });
  expect_full_disk(result, "out.json");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out.json"});
  EXPECT_EQ(read_small_file(folder / "out.json", 100), "old");
}

// A real full disk, where the rights to mount one are there.
TEST(TornWrites, AFullDisk) {
  TemporaryFolder folder;
  const SimulatedRun run = large_run();
  int mounted = 0;
  for (const int64_t kib : {4, 16, 40, 100, 300, 700, 1200}) {
    const fs::path disk = folder / "disk";
    fs::create_directory(disk);
    const std::string options = fmt::format("size={}k", kib);
    if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, options.c_str()) != 0) break;
    ++mounted;
    const ChildResult result = in_child([&] {
      prepare_dump_directory(disk / "dump", false);
      HdfDump dump(disk / "dump", 0, run.cp, {}, run.info());
      run.feed(dump, 0);
      dump.close();
    });
    expect_full_disk(result, "rank_0000.h5");
    EXPECT_NE(result.text.find("No space left"), std::string::npos) << result.text;
    EXPECT_EQ(names_in(disk / "dump"), std::vector<std::string>{});
    EXPECT_EQ(::umount(disk.c_str()), 0);
  }
  if (mounted == 0) GTEST_SKIP() << "no right to mount a tmpfs here";
}

// Kills a writer at random moments. Afterwards the folder is a good dump or no dump, never a bad
// one.
TEST(TornWrites, KilledAtAnyMoment) {
  TemporaryFolder folder;
  const SimulatedRun run = large_run();
  std::mt19937_64 engine(5);
  const auto begin = std::chrono::steady_clock::now();
  in_child([&] { run.write(folder / "dump"); });
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(
                         std::chrono::steady_clock::now() - begin)
                         .count();
  int unfinished = 0;
  for (int i = 0; i < 60; ++i) {
    fs::remove_all(folder / "dump");
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        run.write(folder / "dump");
      } catch (...) {
      }
      ::_exit(0);
    }
    std::this_thread::sleep_for(
        std::chrono::microseconds(engine() % static_cast<uint64_t>(std::max<int64_t>(whole, 1))));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    for (const std::string& name : names_in(folder / "dump")) {
      if (!name.ends_with(".h5")) continue;
      Hdf5File file = Hdf5File::open(folder / "dump" / name);
      EXPECT_EQ(file.root().int_attribute("complete"), 1) << name;
    }
    if (fs::exists(folder / "dump/manifest.json")) {
      merge_dump(folder / "dump", folder / "merged.h5", true);
      run.expect_merged(folder / "merged.h5");
    } else {
      ++unfinished;
      if (fs::exists(folder / "dump"))
        expect_error(ExitCode::mismatch, {"manifest.json"},
                     [&] { merge_dump(folder / "dump", folder / "merged.h5", true); });
      run.write(folder / "dump", true);  // what the killed one left does not stand in the way
    }
  }
  EXPECT_GT(unfinished, 0);  // the kills did hit the writing
}

TEST(TornWrites, AnExceptionBeforeCloseLeavesNothing) {
  TemporaryFolder folder;
  const SimulatedRun run = large_run();
  prepare_dump_directory(folder / "dump", false);
  {
    HdfDump dump(folder / "dump", 1, run.cp, {}, run.info());
    run.feed(dump, 1);
    EXPECT_EQ(names_in(folder / "dump"), std::vector<std::string>{"rank_0001.h5.tmp"});
  }
  EXPECT_EQ(names_in(folder / "dump"), std::vector<std::string>{});
}

}  // namespace
}  // namespace longhaul::io
