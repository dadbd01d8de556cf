#include "comm/pump.h"

#include <chrono>

namespace longhaul::comm {
namespace {

// Between two looks. A chunk of 16 MiB takes longer than this on a link of 100 Gbit/s.
constexpr auto kPeriod = std::chrono::milliseconds(1);
// After this many looks with nothing under way the thread sleeps until something is started.
constexpr int kIdleLooks = 20;

}  // namespace

Pump::Pump(Engine& engine) : engine_(engine) {
  thread_ = std::thread([this] { run(); });
}

Pump::~Pump() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  engine_.wake_sleeper();
  thread_.join();
}

void Pump::run() {
  int idle = 0;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (idle > kIdleLooks) {
      lock.unlock();
      engine_.sleep_until_active([this] {
        std::lock_guard inner(mutex_);
        return stopping_;
      });
      lock.lock();
      idle = 0;
      continue;
    }
    wake_.wait_for(lock, kPeriod, [this] { return stopping_; });
    if (stopping_) return;
    idle = engine_.num_active() == 0 ? idle + 1 : 0;
    if (engine_.num_active() > 0 && engine_.num_waiting() == 0) engine_.try_advance();
  }
}

}  // namespace longhaul::comm
