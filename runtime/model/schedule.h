#pragma once
// Which tokens each prefill step takes: pure.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::model {

// Steps of at most `chunk` new tokens over the whole batch (0: everything in one step), filling
// sequence after sequence in order. Each step has one extent a sequence; prefix counts the tokens
// of earlier steps.
std::vector<std::vector<layout::SequenceExtent>> prefill_schedule(
    std::span<const int64_t> prompt_lengths, int64_t chunk);

}  // namespace longhaul::model
