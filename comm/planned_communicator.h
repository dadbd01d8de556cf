#pragma once
// The Communicator that all implementations share: it plans operations (comm/operation.h) and
// drives them over a transport.

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/operation.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

class Operation;

// The operations of one rank that are under way, over all of its communicators. Whoever waits for
// one advances all: a peer may need another one's next round before it comes to ours.
class Engine {
 public:
  void add(Operation* operation);
  void remove(Operation* operation);
  // Advances every operation by what is possible now.
  void advance();
  bool try_advance();  // false when another thread is at it
  int num_active() const { return num_active_.load(std::memory_order_relaxed); }
  int num_waiting() const { return num_waiting_.load(std::memory_order_relaxed); }
  // For the pump (comm/pump.h): returns when an operation is under way, or when woken and
  // give_up() says so.
  template <class F>
  void sleep_until_active(F&& give_up) {
    std::unique_lock lock(mutex_);
    sleeping_ = true;
    started_.wait(lock, [&] { return !active_.empty() || give_up(); });
    sleeping_ = false;
  }
  void wake_sleeper() {
    std::lock_guard lock(mutex_);
    started_.notify_all();
  }
  // Throws the first error that any operation has met: after one, the rank cannot go on.
  void rethrow_error();
  // No operation was given up unfinished or has failed: the transport is in order.
  bool clean() const { return !failed_.load() && !abandoned_.load(); }
  // Serialises all calls into the transport, which may then be used by helper threads too.
  std::mutex& mutex() { return mutex_; }

 private:
  friend class Operation;
  void advance_locked();

  std::mutex mutex_;
  std::vector<Operation*> active_;
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> abandoned_{false};
  std::atomic<int> num_active_{0};
  std::atomic<int> num_waiting_{0};
  std::condition_variable started_;
  bool sleeping_ = false;
};

class PlannedCommunicator : public Communicator {
 public:
  // world_ranks[r]: the rank in the world of rank r of this communicator. The references must
  // outlive the communicator.
  PlannedCommunicator(int rank, std::vector<int> world_ranks, uint64_t group,
                      std::unique_ptr<Transport> transport, Engine& engine, RankWatch& watch);
  ~PlannedCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(world_ranks_.size()); }
  Request start_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override;
  Request start_all_to_all_v(const void* send, std::span<const int64_t> send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override;
  Request start_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                          int64_t recv_bytes, int from, OpLabel label) override;
  Request start_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                           OpLabel label) override;
  Request start_broadcast(void* data, int64_t bytes, int root, OpLabel label) override;
  Request start_barrier(OpLabel label) override;
  Traffic traffic() const override;
  Progress* progress() override { return &watch_.progress(); }

  int world_rank(int r) const { return world_ranks_[static_cast<size_t>(r)]; }
  uint64_t group() const { return group_; }
  uint64_t sequence() const { return sequence_; }  // operations begun so far
  Engine& engine() { return engine_; }
  RankWatch& watch() { return watch_; }
  Transport& transport() { return *transport_; }

 private:
  friend class Operation;
  Request start(Plan plan);

  const int rank_;
  const std::vector<int> world_ranks_;
  const uint64_t group_;
  std::unique_ptr<Transport> transport_;
  Engine& engine_;
  RankWatch& watch_;
  uint64_t sequence_ = 0;
  std::atomic<int64_t> sent_bytes_{0};
  std::atomic<int64_t> received_bytes_{0};
};

// Members of the group that a split with this color makes, in the order of (key, rank).
struct SplitMember {
  int32_t color;
  int32_t key;
};
std::vector<int> split_members(const std::vector<SplitMember>& all, int color);
// The id of a group made by the parent's next split; equal on all its ranks.
uint64_t split_group_id(uint64_t parent, uint64_t sequence, int color);

}  // namespace longhaul::comm
