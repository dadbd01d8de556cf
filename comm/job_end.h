#pragma once
// Ending the whole job at once: one rank of a host speaks, and all go with its exit code.

#include <atomic>
#include <string>

#include "comm/host_table.h"

namespace longhaul::comm {

class JobEnd {
 public:
  explicit JobEnd(HostTable& table) : table_(table) {}

  // Between MPI_Init and MPI_Finalize MPI_Abort takes every rank along; at other times this
  // process exits, and the launcher or the other hosts' watchdogs end the rest.
  void set_mpi_usable(bool usable) { mpi_usable_.store(usable); }

  // With other hosts: the word that the job is ending gets some time to reach them first, so that
  // they keep silent.
  void set_several_hosts(bool several) { several_hosts_.store(several); }

  // Prints "longhaul: " + line and ends the job, unless another rank of this host is at it
  // already: then waits for that.
  [[noreturn]] void end(int exit_code, const std::string& line);
  // What end() does for the one who has claimed the ending.
  [[noreturn]] void speak(int exit_code, const std::string& line);
  // The same without a word, where somebody else has spoken or will.
  [[noreturn]] void follow(int exit_code);

 private:
  HostTable& table_;
  std::atomic<bool> mpi_usable_{false};
  std::atomic<bool> several_hosts_{false};
};

// One write, so that lines of several ranks do not mix.
void print_line(const std::string& line);

}  // namespace longhaul::comm
