#include "moe/dispatch_plan.h"

namespace longhaul::moe {

DispatchPlan make_dispatch_plan(ConstTensorView ids, int num_experts) {
  const int64_t rows = ids.rows();
  const int64_t top_k = ids.shape[1];
  const int32_t* id = ids.as<int32_t>();
  DispatchPlan plan;
  plan.expert_begin.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (int64_t i = 0; i < rows * top_k; ++i) {
    LH_CHECK(id[i] >= 0 && id[i] < num_experts, "expert {} of {}", id[i], num_experts);
    ++plan.expert_begin[static_cast<size_t>(id[i]) + 1];
  }
  for (size_t e = 1; e < plan.expert_begin.size(); ++e)
    plan.expert_begin[e] += plan.expert_begin[e - 1];
  std::vector<int64_t> next(plan.expert_begin.begin(), plan.expert_begin.end() - 1);
  plan.row.resize(static_cast<size_t>(rows * top_k));
  plan.slot.resize(plan.row.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < top_k; ++k) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(id[r * top_k + k])]++);
      plan.row[at] = r;
      plan.slot[at] = static_cast<int32_t>(k);
    }
  return plan;
}

}  // namespace longhaul::moe
