#pragma once
// What a rank is doing, for the watchdog: "slow" is told from "hung" by `ticks` moving.

#include <atomic>
#include <cstdint>

namespace longhaul {

// Written by the rank's working threads, read by its helper thread. All members lock-free.
// `phase` and `operation` point to string literals.
struct Progress {
  std::atomic<uint64_t> ticks{0};
  std::atomic<const char*> phase{"start"};      // "load", "prefill", "generate", "dump", ...
  std::atomic<const char*> operation{"start"};  // "attention", "allgather kv", ...
  std::atomic<int> layer{-1};                   // -1: outside a layer

  void tick() { ticks.fetch_add(1, std::memory_order_relaxed); }
  void enter(const char* what, int in_layer = -1) {
    operation.store(what, std::memory_order_relaxed);
    layer.store(in_layer, std::memory_order_relaxed);
    tick();
  }
};

}  // namespace longhaul
