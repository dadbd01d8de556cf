#pragma once
// The host waits for its GPU as it waits for messages: under the eyes of the watchdog.

#include <functional>

#include "comm/communicator.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::comm::cuda {

// Returns when the event is done. The GPU may be waiting for other ranks' data, so meanwhile the
// rank counts as waiting, not as hung: the rank that hangs is the one that gets named, and the job
// ends with exit code 75 within --timeout. poll() is called now and then and may throw
// (asynchronous errors, Gather::check). Where `comm` has no watchdog this is a plain loop.
//
// All ranks that wait and show no progress for the deadline count as deadlocked, so long stretches
// of GPU work need events on their way: record one a layer, say, and wait for them one by one; each
// one done is a tick.
void wait_device(Communicator& comm, const longhaul::cuda::Event& event, OpLabel label,
                 const std::function<void()>& poll = {});

// The same until done() says so.
void wait_until(Communicator& comm, OpLabel label, const std::function<bool()>& done,
                const std::function<void()>& poll = {});

// The same for all work that the stream has so far.
void wait_stream(Communicator& comm, cudaStream_t stream, OpLabel label,
                 const std::function<void()>& poll = {});

}  // namespace longhaul::comm::cuda
