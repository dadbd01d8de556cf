#pragma once
// What ranks say to each other. Implementations: MPI, threads of one process (tests), single.
//
// All counts are bytes or elements in int64_t and may pass 2^31. Buffers of different arguments
// must not overlap. Every rank of the communicator calls the same operations in the same order;
// every operation carries a label, and fails with Error(peer_lost) naming the culprit when a rank
// shows no sign of life or progress for the communicator's deadline. No call blocks for ever.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/core/dtype.h"
#include "runtime/core/progress.h"

namespace longhaul::comm {

// Names an operation in error messages, traces and time accounting. `name` is a string literal.
struct OpLabel {
  const char* name;
  int layer = -1;  // -1: outside a layer
};

enum class ReduceOp { sum, min, max };

// A started operation. Move-only. Destroying an unfinished request waits for it.
class Request {
 public:
  class Impl {
   public:
    virtual ~Impl() = default;
    virtual bool test() = 0;  // true once complete; makes progress
    virtual void wait() = 0;  // throws Error(peer_lost)
  };
  Request() = default;  // complete
  explicit Request(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
  Request(Request&&) noexcept = default;
  Request& operator=(Request&& other) {
    wait();
    impl_ = std::move(other.impl_);
    return *this;
  }
  ~Request();  // waits; if that fails the process is ended as the top handler would
  bool test() {
    if (impl_ && impl_->test()) impl_.reset();
    return !impl_;
  }
  void wait() {
    if (impl_) impl_->wait();
    impl_.reset();
  }

 private:
  std::unique_ptr<Impl> impl_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Rank r contributes recv_bytes[r] bytes (its send_bytes must equal recv_bytes[rank()]); they
  // land rank-major in recv.
  virtual Request start_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                                     std::span<const int64_t> recv_bytes, OpLabel label) = 0;
  // send_bytes[r] bytes go to rank r, recv_bytes[r] come from it; both buffers rank-major, packed.
  virtual Request start_all_to_all_v(const void* send, std::span<const int64_t> send_bytes,
                                     void* recv, std::span<const int64_t> recv_bytes,
                                     OpLabel label) = 0;
  // One message to `to` and one from `from` (either may be -1 for none).
  virtual Request start_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                                  int64_t recv_bytes, int from, OpLabel label) = 0;
  // In place over count elements of f64, f32, i64 or i32.
  virtual Request start_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                                   OpLabel label) = 0;
  virtual Request start_broadcast(void* data, int64_t bytes, int root, OpLabel label) = 0;
  virtual Request start_barrier(OpLabel label) = 0;

  void all_gather_v(const void* send, int64_t send_bytes, void* recv,
                    std::span<const int64_t> recv_bytes, OpLabel label) {
    start_all_gather_v(send, send_bytes, recv, recv_bytes, label).wait();
  }
  void all_to_all_v(const void* send, std::span<const int64_t> send_bytes, void* recv,
                    std::span<const int64_t> recv_bytes, OpLabel label) {
    start_all_to_all_v(send, send_bytes, recv, recv_bytes, label).wait();
  }
  void send_recv(const void* send, int64_t send_bytes, int to, void* recv, int64_t recv_bytes,
                 int from, OpLabel label) {
    start_send_recv(send, send_bytes, to, recv, recv_bytes, from, label).wait();
  }
  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op, OpLabel label) {
    start_all_reduce(data, count, dtype, op, label).wait();
  }
  void broadcast(void* data, int64_t bytes, int root, OpLabel label) {
    start_broadcast(data, bytes, root, label).wait();
  }
  void barrier(OpLabel label) { start_barrier(label).wait(); }

  // Payload bytes this rank has sent and received so far (own copies not counted).
  struct Traffic {
    int64_t sent_bytes = 0;
    int64_t received_bytes = 0;
  };
  virtual Traffic traffic() const = 0;

  // What this rank's watchdog looks at: give it to the ThreadPool and call enter() at each step.
  // Work that neither ticks nor waits in an operation for the deadline counts as hung.
  virtual Progress* progress() { return nullptr; }
};

}  // namespace longhaul::comm
