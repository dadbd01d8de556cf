#include "tests/support/job_runner.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace longhaul::testing_support {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Processes whose environment holds `token` and that are not zombies.
std::vector<std::string> processes_with(const std::string& token) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (name == std::to_string(getpid())) continue;
    if (read_all(entry.path() / "environ").find(token) == std::string::npos) continue;
    const std::string stat = read_all(entry.path() / "stat");
    const size_t state = stat.rfind(") ");
    if (state == std::string::npos || stat[state + 2] == 'Z' || stat[state + 2] == 'X') continue;
    std::string line = read_all(entry.path() / "cmdline");
    for (char& c : line)
      if (c == '\0') c = ' ';
    found.push_back("process " + name + ": " + line);
  }
  return found;
}

std::vector<std::string> files_in(const fs::path& directory) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(directory, error))
    if (!entry.is_directory()) found.push_back("file " + entry.path().filename().string());
  return found;
}

std::vector<std::string> host_tables() {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/dev/shm", error)) {
    const std::string name = entry.path().filename();
    if (name.rfind("longhaul.", 0) == 0) found.push_back("file /dev/shm/" + name);
  }
  return found;
}

pid_t start(const Job& job, const fs::path& directory, const std::string& token) {
  std::vector<char*> arguments;
  for (const std::string& a : job.command) arguments.push_back(const_cast<char*>(a.c_str()));
  arguments.push_back(nullptr);
  const std::string output = directory / "output";
  const std::string temporary = directory / "tmp";
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork");
  if (pid > 0) return pid;
  setpgid(0, 0);
  const int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0 || dup2(file, 1) < 0 || dup2(file, 2) < 0) _exit(126);
  setenv("TMPDIR", temporary.c_str(), 1);
  setenv("OMPI_MCA_btl_vader_backing_directory", temporary.c_str(), 1);
  setenv("LONGHAUL_TEST_JOB", token.c_str(), 1);
  for (const auto& [name, value] : job.environment) setenv(name.c_str(), value.c_str(), 1);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

// What is still there once what was on its way out has had time to go.
std::vector<std::string> left_over(const fs::path& directory, const std::string& token,
                                   const std::vector<std::string>& tables_before) {
  std::vector<std::string> found;
  for (int attempt = 0; attempt < 20; ++attempt) {
    found = processes_with(token);
    for (const std::string& file : files_in(directory / "tmp")) found.push_back(file);
    for (const std::string& table : host_tables())
      if (std::find(tables_before.begin(), tables_before.end(), table) == tables_before.end())
        found.push_back(table);
    if (found.empty()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return found;
}

}  // namespace

std::vector<std::string> JobResult::own_lines() const {
  std::vector<std::string> lines;
  std::istringstream text(output);
  for (std::string line; std::getline(text, line);) {
    line.erase(0, line.find_first_not_of('\0'));  // what Open MPI 5 ends its messages with
    if (line.rfind("longhaul:", 0) == 0) lines.push_back(line);
  }
  return lines;
}

JobResult run_job(const Job& job) {
  static std::atomic<int> number{0};
  const std::string token = "lh" + std::to_string(getpid()) + "-" + std::to_string(number++) + "!";
  // Short: Open MPI makes sockets below.
  const fs::path directory = fs::temp_directory_path() / token.substr(0, token.size() - 1);
  fs::create_directories(directory / "tmp");
  const auto tables_before = host_tables();
  JobResult result;
  const auto begin = Clock::now();
  auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  const pid_t pid = start(job, directory, "LONGHAUL_TEST_JOB=" + token);
  int status = 0;
  bool signalled = false;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (job.signal > 0 && !signalled && elapsed() > job.signal_after) {
      kill(pid, job.signal);
      signalled = true;
    }
    if (elapsed() > job.limit_seconds) {
      result.timed_out = true;
      kill(-pid, SIGKILL);
      waitpid(pid, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  result.seconds = elapsed();
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.left_over = left_over(directory, token, tables_before);
  result.output = read_all(directory / "output");
  std::error_code error;
  fs::remove_all(directory, error);
  return result;
}

}  // namespace longhaul::testing_support
