#include "comm/cuda/device_wait.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "comm/planned_communicator.h"

namespace longhaul::comm::cuda {
namespace {

using longhaul::cuda::Event;

// An event's query costs about a microsecond.
constexpr int kTurnsBetweenPolls = 64;
constexpr int kSpinTurns = 2000;

void plain_wait(const std::function<bool()>& done, const std::function<void()>& poll) {
  for (int turn = 0; !done(); ++turn) {
    if (poll && turn % kTurnsBetweenPolls == 0) poll();
    if (turn > kSpinTurns) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

Fingerprint fingerprint_of(const PlannedCommunicator& comm, OpLabel label) {
  Fingerprint f;
  f.group = comm.group();
  f.sequence = comm.sequence();
  f.world_rank = comm.world_rank(comm.rank());
  f.layer = label.layer;
  f.kind = OpKind::barrier;
  std::strncpy(f.name, label.name, sizeof f.name - 1);
  return f;
}

}  // namespace

void wait_until(Communicator& comm, OpLabel label, const std::function<bool()>& done,
                const std::function<void()>& poll) {
  auto* planned = dynamic_cast<PlannedCommunicator*>(&comm);
  if (planned == nullptr) {
    plain_wait(done, poll);
    if (Progress* progress = comm.progress()) progress->tick();
    return;
  }
  RankWatch& watch = planned->watch();
  const Fingerprint operation = fingerprint_of(*planned, label);
  watch.begin_operation(operation);
  if (done()) return;
  watch.begin_wait(operation);
  struct End {
    RankWatch& watch;
    ~End() { watch.end_wait(); }
  } end{watch};
  for (int turn = 0; !done(); ++turn) {
    watch.check_wait(-1);
    if (poll && turn % kTurnsBetweenPolls == 0) poll();
    planned->transport().pause(turn);
  }
}

void wait_device(Communicator& comm, const Event& event, OpLabel label,
                 const std::function<void()>& poll) {
  wait_until(
      comm, label, [&event] { return event.done(); }, poll);
}

void wait_stream(Communicator& comm, cudaStream_t stream, OpLabel label,
                 const std::function<void()>& poll) {
  Event event;
  event.record(stream);
  wait_device(comm, event, label, poll);
}

}  // namespace longhaul::comm::cuda
