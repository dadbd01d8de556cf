#include "comm/planned_communicator.h"

#include <algorithm>
#include <cstring>

#include "runtime/core/check.h"

namespace longhaul::comm {

// One operation under way. Its members are guarded by the engine's mutex.
class Operation final : public Request::Impl {
 public:
  Operation(PlannedCommunicator& comm, Plan plan, const Fingerprint& fingerprint)
      : comm_(comm), plan_(std::move(plan)), fingerprint_(fingerprint) {
    comm_.engine_.add(this);
  }
  // Reached unfinished only after an error: gives up what has not arrived.
  ~Operation() override { comm_.engine_.remove(this); }

  bool test() override {
    comm_.engine_.advance();
    comm_.engine_.rethrow_error();
    return done_.load(std::memory_order_acquire);
  }

  void wait() override {
    if (test()) return;
    comm_.watch_.begin_wait(fingerprint_);
    comm_.engine_.num_waiting_.fetch_add(1, std::memory_order_relaxed);
    struct End {
      PlannedCommunicator& comm;
      ~End() {
        comm.engine_.num_waiting_.fetch_sub(1, std::memory_order_relaxed);
        comm.watch_.end_wait();
      }
    } end{comm_};
    for (int turn = 0; !test(); ++turn) {
      comm_.watch_.check_wait(missing_.load(std::memory_order_relaxed));
      comm_.transport_->pause(turn);
    }
  }

  void advance_locked() {
    while (!done_.load(std::memory_order_relaxed)) {
      if (!exchange_) {
        const Round& round = plan_.rounds[next_];
        Fingerprint message = fingerprint_;
        message.round = static_cast<uint16_t>(round.number);
        exchange_ = comm_.transport_->post(message, round);
        pieces_ = 0;
      }
      const bool complete = exchange_->advance();
      if (exchange_->pieces() != pieces_) {
        pieces_ = exchange_->pieces();
        comm_.watch_.progress().tick();
      }
      if (!complete) {
        const int missing = exchange_->missing();
        missing_.store(missing < 0 ? -1 : comm_.world_rank(missing), std::memory_order_relaxed);
        return;
      }
      finish_round();
    }
  }

 private:
  friend class Engine;

  void finish_round() {
    const Round& round = plan_.rounds[next_];
    if (round.then) round.then();
    int64_t sent = 0, received = 0;
    for (const SendPart& part : round.sends) sent += part.bytes;
    for (const ReceivePart& part : round.receives) received += part.bytes;
    comm_.sent_bytes_.fetch_add(sent, std::memory_order_relaxed);
    comm_.received_bytes_.fetch_add(received, std::memory_order_relaxed);
    exchange_.reset();
    if (++next_ == plan_.rounds.size()) {
      comm_.watch_.progress().tick();
      done_.store(true, std::memory_order_release);
    }
  }

  PlannedCommunicator& comm_;
  Plan plan_;
  const Fingerprint fingerprint_;
  std::unique_ptr<Exchange> exchange_;
  size_t next_ = 0;
  uint64_t pieces_ = 0;
  std::atomic<int> missing_{-1};
  std::atomic<bool> done_{false};
};

void Engine::add(Operation* operation) {
  std::lock_guard lock(mutex_);
  active_.push_back(operation);
  num_active_.fetch_add(1, std::memory_order_relaxed);
  if (sleeping_) started_.notify_all();
}

void Engine::remove(Operation* operation) {
  std::lock_guard lock(mutex_);
  operation->exchange_.reset();
  if (!operation->done_.load(std::memory_order_relaxed)) abandoned_.store(true);
  if (std::erase(active_, operation) != 0) num_active_.fetch_sub(1, std::memory_order_relaxed);
}

void Engine::advance_locked() {
  if (failed_.load(std::memory_order_relaxed)) return;
  try {
    for (Operation* operation : active_) operation->advance_locked();
  } catch (...) {
    error_ = std::current_exception();
    failed_.store(true, std::memory_order_release);
    return;
  }
  const size_t removed =
      std::erase_if(active_, [](Operation* o) { return o->done_.load(std::memory_order_relaxed); });
  num_active_.fetch_sub(static_cast<int>(removed), std::memory_order_relaxed);
}

void Engine::advance() {
  std::lock_guard lock(mutex_);
  advance_locked();
}

bool Engine::try_advance() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  advance_locked();
  return true;
}

void Engine::rethrow_error() {
  if (!failed_.load(std::memory_order_acquire)) return;
  std::rethrow_exception(error_);
}

PlannedCommunicator::PlannedCommunicator(int rank, std::vector<int> world_ranks, uint64_t group,
                                         std::unique_ptr<Transport> transport, Engine& engine,
                                         RankWatch& watch)
    : rank_(rank),
      world_ranks_(std::move(world_ranks)),
      group_(group),
      transport_(std::move(transport)),
      engine_(engine),
      watch_(watch) {
  LH_CHECK(rank_ >= 0 && rank_ < size(), "rank {} of {}", rank_, size());
}

PlannedCommunicator::~PlannedCommunicator() = default;

Request PlannedCommunicator::start(Plan plan) {
  Fingerprint fingerprint;
  fingerprint.group = group_;
  fingerprint.sequence = sequence_++;
  fingerprint.world_rank = world_rank(rank_);
  fingerprint.layer = plan.label.layer;
  fingerprint.detail = plan.detail;
  fingerprint.kind = plan.kind;
  std::strncpy(fingerprint.name, plan.label.name, sizeof fingerprint.name - 1);
  watch_.begin_operation(fingerprint);
  auto operation = std::make_unique<Operation>(*this, std::move(plan), fingerprint);
  if (operation->test()) return Request();
  return Request(std::move(operation));
}

Request PlannedCommunicator::start_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                                                std::span<const int64_t> recv_bytes,
                                                OpLabel label) {
  return start(plan_all_gather(rank_, size(), send, send_bytes, recv, recv_bytes, label));
}
Request PlannedCommunicator::start_all_to_all_v(const void* send,
                                                std::span<const int64_t> send_bytes, void* recv,
                                                std::span<const int64_t> recv_bytes,
                                                OpLabel label) {
  return start(plan_all_to_all(rank_, size(), send, send_bytes, recv, recv_bytes, label));
}
Request PlannedCommunicator::start_send_recv(const void* send, int64_t send_bytes, int to,
                                             void* recv, int64_t recv_bytes, int from,
                                             OpLabel label) {
  return start(plan_send_recv(rank_, size(), send, send_bytes, to, recv, recv_bytes, from, label));
}
Request PlannedCommunicator::start_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                                              OpLabel label) {
  return start(plan_all_reduce(rank_, size(), data, count, dtype, op, label));
}
Request PlannedCommunicator::start_broadcast(void* data, int64_t bytes, int root, OpLabel label) {
  return start(plan_broadcast(rank_, size(), data, bytes, root, label));
}
Request PlannedCommunicator::start_barrier(OpLabel label) {
  return start(plan_barrier(rank_, size(), label));
}

Communicator::Traffic PlannedCommunicator::traffic() const {
  return {sent_bytes_.load(std::memory_order_relaxed),
          received_bytes_.load(std::memory_order_relaxed)};
}

std::vector<int> split_members(const std::vector<SplitMember>& all, int color) {
  std::vector<int> members;
  for (size_t r = 0; r < all.size(); ++r)
    if (all[r].color == color) members.push_back(static_cast<int>(r));
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
    return all[static_cast<size_t>(a)].key < all[static_cast<size_t>(b)].key;
  });
  return members;
}

uint64_t split_group_id(uint64_t parent, uint64_t sequence, int color) {
  // splitmix64 over the three numbers.
  uint64_t h = parent;
  for (uint64_t part : {sequence, static_cast<uint64_t>(static_cast<int64_t>(color))}) {
    h += part + 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    h ^= h >> 31;
  }
  return h;
}

}  // namespace longhaul::comm
