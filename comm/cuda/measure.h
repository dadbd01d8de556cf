#pragma once
// How fast the implementations of the gather are, and whether what arrives is right.

#include <span>
#include <string>
#include <vector>

#include "comm/cuda/gather.h"

namespace longhaul::comm::cuda {

struct MeasureOptions {
  int repeats = 7;           // medians of so many
  bool check = true;         // every byte received, on both buffers
  bool signal_only = false;  // the caller's kernels have stored the data: signals alone
};

struct GatherFigure {
  std::string name;  // of the implementation
  int64_t bytes_per_rank = 0;
  double microseconds = 0;       // a gather, by device events, of the slowest rank
  double gigabytes_per_s = 0;    // received by each rank
  double host_microseconds = 0;  // of the host for start() and finish()
  int64_t wrong_bytes = 0;       // over all ranks
};

// Collective. An all-gather of equal parts, many of them back to back; every rank has the same
// figures. The gather's plan and buffers are replaced.
GatherFigure measure_gather(Communicator& comm, Gather& gather, int64_t bytes_per_rank,
                            const MeasureOptions& options = {});

// Collective. Each implementation that can run here at each size; `refused` (may be null) receives
// a line for each that cannot.
std::vector<GatherFigure> measure_gathers(Communicator& comm,
                                          std::span<const int64_t> bytes_per_rank,
                                          const MeasureOptions& options,
                                          std::vector<std::string>* refused);

// An all-gather in place: rank r owns bytes [r, r + 1) * bytes_per_rank, and all need all.
GatherPlan even_plan(int rank, int size, int64_t bytes_per_rank);

}  // namespace longhaul::comm::cuda
