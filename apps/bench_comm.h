#pragma once
// What `longhaul bench comm` was asked and what it found.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "comm/mpi_session.h"

namespace longhaul::apps {

struct CommBench {
  std::string backend;
  std::vector<std::string> sizes, exchange;
  int repeat = 7;
  bool json = false;
  double timeout = 60;

  std::vector<int64_t> bytes() const;  // of `sizes`; throws Error(usage)
};

struct CommFigure {
  std::string operation;  // "peer", "nccl", "staged"; "all_gather_v" ...
  int64_t bytes_per_rank = 0;
  double microseconds = 0;  // of the slowest rank
  // What each rank receives a second; for the sums, that an all-gather of their halves would
  // (nccl-tests' bus bandwidth).
  double gigabytes_per_s = 0;
  double host_microseconds = 0;  // GPU: of the host, to start and finish one
  int64_t wrong = 0;             // bytes or elements, over all ranks
};

struct CommFigures {
  std::string device;  // empty: CPU ranks
  std::vector<CommFigure> figures;
  std::vector<std::string> refused;  // a line for each implementation that cannot run here
};

// Collective; the same figures on every rank.
CommFigures bench_comm_cpu(const CommBench& bench, comm::Communicator& comm);
CommFigures bench_comm_gpu(const CommBench& bench, comm::MpiSession& session);

}  // namespace longhaul::apps
