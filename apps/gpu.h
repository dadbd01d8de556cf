#pragma once
// Which GPU a rank works on.

#include "comm/mpi_session.h"

namespace longhaul::apps {

// The ranks of a host share its GPUs in turn: rank i of the host takes GPU i modulo their number
// (a launcher that shows each rank its own GPU leaves one). Makes it the calling thread's device.
// Warns once where ranks have to share. Throws Error(usage) where there is none.
void open_gpu(comm::MpiSession& session);

}  // namespace longhaul::apps
