#pragma once
// Runs a command as a job of its own and looks at what it left behind.

#include <string>
#include <utility>
#include <vector>

namespace longhaul::testing_support {

struct JobResult {
  int exit_code = -1;      // 128 + signal when it was ended by one
  bool timed_out = false;  // and was killed
  double seconds = 0;
  std::string output;                  // stdout and stderr
  std::vector<std::string> left_over;  // processes (not zombies) and files
  // Lines of the output that begin with "longhaul:".
  std::vector<std::string> own_lines() const;
};

struct Job {
  std::vector<std::string> command;
  std::vector<std::pair<std::string, std::string>> environment;  // added
  double limit_seconds = 30;
  // Sent `signal_after` seconds after the start to the command (mpirun), where signal > 0.
  int signal = 0;
  double signal_after = 0;
};

// The job gets temporary directories of its own for Open MPI's files, so that other jobs of this
// machine do not count.
JobResult run_job(const Job& job);

}  // namespace longhaul::testing_support
