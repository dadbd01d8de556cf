#pragma once
// Advances operations while the rank computes, so that what was started really arrives meanwhile:
// MPI moves large messages only inside its calls.

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "comm/planned_communicator.h"

namespace longhaul::comm {

class Pump {
 public:
  // Starts a helper thread, which sleeps while nothing is under way or somebody waits (and so
  // advances everything anyway). `engine` must outlive it.
  explicit Pump(Engine& engine);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

 private:
  void run();

  Engine& engine_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace longhaul::comm
