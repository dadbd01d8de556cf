#pragma once
// --trace: a timeline of all ranks in the Chrome trace format (chrome://tracing, Perfetto).

#include <string>

#include "comm/communicator.h"
#include "runtime/core/trace.h"

namespace longhaul::apps {

// Nanoseconds to add to this rank's steady clock to get rank 0's, by the fastest of some round
// trips: off by less than half of it. Collective.
int64_t clock_offset_ns(comm::Communicator& comm);

// Collective: gathers every rank's spans; rank 0 writes the file. One process a rank, one row a
// track, microseconds from the earliest span on.
void write_trace(comm::Communicator& comm, Trace& trace, int64_t offset_ns, const std::string& path,
                 bool force);

}  // namespace longhaul::apps
