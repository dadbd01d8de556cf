#pragma once
// What a rank is doing, for the watchdog: "slow" is told from "hung" by `ticks` moving.

#include <atomic>
#include <cstdint>

#include "runtime/core/trace.h"

namespace longhaul {

// Written by the rank's working threads, read by its helper thread. All members lock-free.
// `phase` and `operation` point to string literals.
struct Progress {
  // Told of every step, on the thread that takes it. May throw, to end the rank's work: a stop by
  // signal, a fault that a test asked for.
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void entered(const Progress& progress) = 0;
  };

  std::atomic<uint64_t> ticks{0};
  std::atomic<const char*> phase{"start"};      // "load", "prefill", "generate", "dump", ...
  std::atomic<const char*> operation{"start"};  // "attention", "allgather kv", ...
  std::atomic<int> layer{-1};                   // -1: outside a layer
  std::atomic<Observer*> observer{nullptr};
  std::atomic<Trace*> trace{nullptr};  // gets every step, where one is kept

  void tick() { ticks.fetch_add(1, std::memory_order_relaxed); }
  void enter(const char* what, int in_layer = -1) {
    operation.store(what, std::memory_order_relaxed);
    layer.store(in_layer, std::memory_order_relaxed);
    tick();
    if (Trace* t = trace.load(std::memory_order_acquire)) t->enter(what, in_layer);
    if (Observer* o = observer.load(std::memory_order_acquire)) o->entered(*this);
  }
  void enter_phase(const char* name) {
    phase.store(name, std::memory_order_relaxed);
    enter(name);
  }
};

}  // namespace longhaul
