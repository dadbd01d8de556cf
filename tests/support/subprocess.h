#pragma once
// Runs a command as a person would and tells what came of it; never waits for ever.

#include <string>
#include <vector>

namespace longhaul::test {

struct Finished {
  int exit_code = -1;  // 128 + signal where it was killed
  bool timed_out = false;
  double seconds = 0;
  std::string out;  // stdout
  std::string err;  // stderr
};

// Runs /bin/bash -c `command` in its own process group; on time-out the whole group is killed.
Finished run_command(const std::string& command, double timeout_seconds);

// `text`'s lines that begin with `prefix`.
std::vector<std::string> lines_with_prefix(const std::string& text, const std::string& prefix);

// A folder of its own, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void write_text(const std::string& path, const std::string& text);
std::string read_text(const std::string& path);

}  // namespace longhaul::test
