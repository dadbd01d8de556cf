#include "comm/job_end.h"

#include <mpi.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "runtime/core/temporaries.h"

namespace longhaul::comm {
namespace {

// How long MPI_Abort, or another rank of this host that ends the job, may take.
constexpr auto kPatience = std::chrono::milliseconds(1500);

// Two beats of the leaders at least (comm/watchdog.cpp).
constexpr auto kSpread = std::chrono::milliseconds(400);

void exit_later(int exit_code) {
  std::thread([exit_code] {
    std::this_thread::sleep_for(kPatience);
    exit_at_once(exit_code);
  }).detach();
}

}  // namespace

void print_line(const std::string& line) {
  const std::string text = "longhaul: " + line + "\n";
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nowhere left to say it
}

void JobEnd::end(int exit_code, const std::string& line) {
  if (!table_.claim_ending(exit_code)) follow(exit_code);
  speak(exit_code, line);
}

void JobEnd::speak(int exit_code, const std::string& line) {
  print_line(line);
  if (several_hosts_.load()) std::this_thread::sleep_for(kSpread);
  if (mpi_usable_.load()) {
    exit_later(exit_code);
    remove_temporaries();  // MPI_Abort does not come back
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  }
  exit_at_once(exit_code);
}

void JobEnd::follow(int exit_code) {
  std::this_thread::sleep_for(kPatience);
  exit_at_once(exit_code);
}

}  // namespace longhaul::comm
