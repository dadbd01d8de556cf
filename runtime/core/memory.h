#pragma once
// Accounting of tensor memory, so that a run can say where its bytes went (per process).

#include <cstdint>

namespace longhaul {

enum class MemoryUse : int { activations, kv_cache, exchange, weights, count };

struct MemoryFigures {
  int64_t current_bytes = 0;
  int64_t peak_bytes = 0;
};

void account_memory(MemoryUse use, int64_t delta_bytes);
MemoryFigures memory_figures(MemoryUse use);
MemoryFigures memory_figures_without_weights();  // peak of the sum, not the sum of the peaks
void reset_memory_peaks();

}  // namespace longhaul
