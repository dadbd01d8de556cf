#pragma once
// MPI as an object: initialised, watched and finalised with it. One in a program, on its main
// thread.
//
// From construction to destruction a helper thread watches over the ranks (comm/watchdog.h): a
// rank that hangs or is stopped ends the whole job with exit code 75 and one line that names it,
// inside MPI_Init and MPI_Finalize too. Started without a launcher it is 1 rank, and MPI is left
// alone.

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "runtime/core/progress.h"

namespace longhaul::comm {

struct SessionOptions {
  double timeout_seconds = 60;  // --timeout; 0 or less: nobody watches
  // For tests of what only happens with huge messages.
  int64_t chunk_bytes = int64_t{16} << 20;
  int64_t inline_bytes = 3072;
};

class MpiSession {
 public:
  // Throws Error(usage) for the Slurm trap (comm/launcher.h), Error(internal) when MPI fails.
  MpiSession(int* argc, char*** argv, const SessionOptions& options = {});
  // Waits for all ranks, then finalises. After an exception on this rank, use run_guarded: ends
  // the process otherwise.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  Communicator& world();
  // Collective: the ranks with equal color, ordered by (key, rank). Null for color < 0.
  std::unique_ptr<Communicator> split(int color, int key);

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this host
  int local_size() const;
  int node_count() const;
  std::string host() const;
  std::string host_of(int rank) const;
  Progress& progress();

 private:
  struct Impl;
  friend int run_guarded(MpiSession& session, const std::function<int()>& body);
  std::unique_ptr<Impl> impl_;
};

// For errors outside a session (a wrong option): prints `longhaul: MESSAGE` and returns the exit
// code. Under a launcher every rank comes here with the same error, so one of a host speaks, and
// one of another host than rank 0's only when the job has not ended a second later.
int report_outside_session(std::exception_ptr error);

// Runs the work of a rank: returns body()'s exit code, or, when it throws, ends every rank with
// the error's exit code and one line on stderr: `longhaul: MESSAGE` when all ranks fail alike,
// `longhaul: rank 2 (host n3), phase load, layer 7: MESSAGE` otherwise.
int run_guarded(MpiSession& session, const std::function<int()>& body);

}  // namespace longhaul::comm
