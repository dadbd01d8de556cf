#pragma once
// Whether MPI takes device pointers.

#include <cstdint>

#include "comm/communicator.h"

namespace longhaul::comm::cuda {

// The least number of bytes that a message of device memory must have over `comm`, or 0 where it
// must not be device memory. The same on all ranks.
int64_t least_device_message(Communicator& comm);

}  // namespace longhaul::comm::cuda
