#pragma once
// Which rows go to which expert: pure data, no communication.

#include <cstdint>
#include <vector>

#include "runtime/core/tensor.h"

namespace longhaul::moe {

// Rows grouped by expert, ascending row within an expert (so sums have one fixed order).
struct DispatchPlan {
  std::vector<int64_t> expert_begin;  // [num_experts + 1] offsets into `row` and `slot`
  std::vector<int64_t> row;           // [rows * top_k] source row
  std::vector<int32_t> slot;          // [rows * top_k] which of the row's top_k choices
};

// ids [rows, top_k] i32, each in [0, num_experts).
DispatchPlan make_dispatch_plan(ConstTensorView ids, int num_experts);

}  // namespace longhaul::moe
