#pragma once
// Random gathers whose every byte is checked, many in a row without a word from the host.

#include <cstdint>

#include "comm/cuda/gather.h"

namespace longhaul::comm::cuda::cases {

struct GatherCases {
  uint64_t seed = 1;
  int plans = 20;
  int epochs = 6;                // gathers of each plan
  int64_t most_bytes = 1 << 20;  // of a buffer
  double most_delay_microseconds = 200;
};

// Throws on a wrong byte: one that should have come and did not, or one that should not have.
void random_gathers(Communicator& comm, Gather& gather, const GatherCases& options);

// One segment of `bytes` from rank 0 to all others, behind an offset of `offset`.
void one_segment(Communicator& comm, Gather& gather, int64_t offset, int64_t bytes);

}  // namespace longhaul::comm::cuda::cases
