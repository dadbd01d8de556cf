#include "runtime/core/memory.h"

#include <array>
#include <atomic>

namespace longhaul {
namespace {

struct Counter {
  std::atomic<int64_t> current{0};
  std::atomic<int64_t> peak{0};

  void add(int64_t delta) {
    const int64_t now = current.fetch_add(delta, std::memory_order_relaxed) + delta;
    int64_t seen = peak.load(std::memory_order_relaxed);
    while (now > seen && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
    }
  }
  MemoryFigures figures() const { return {current.load(), peak.load()}; }
};

std::array<Counter, static_cast<size_t>(MemoryUse::count)> counters;
Counter without_weights;

}  // namespace

void account_memory(MemoryUse use, int64_t delta_bytes) {
  counters[static_cast<size_t>(use)].add(delta_bytes);
  if (use != MemoryUse::weights) without_weights.add(delta_bytes);
}

MemoryFigures memory_figures(MemoryUse use) {
  return counters[static_cast<size_t>(use)].figures();
}
MemoryFigures memory_figures_without_weights() {
  return without_weights.figures();
}

void reset_memory_peaks() {
  for (Counter& c : counters) c.peak.store(c.current.load());
  without_weights.peak.store(without_weights.current.load());
}

}  // namespace longhaul
