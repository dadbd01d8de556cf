#pragma once
// The gather by NCCL: grouped send and receive, straight from and to the segments.

#include <memory>
#include <string>

#include "comm/cuda/gather.h"

namespace longhaul::comm::cuda {

// Collective. Null on all ranks where NCCL is not built in or ranks share a GPU; `why` (may be
// null) then says which.
std::unique_ptr<Gather> make_nccl_gather(Communicator& comm, std::string* why);

}  // namespace longhaul::comm::cuda
