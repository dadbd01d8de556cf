#pragma once
// The experts of one layer, replicated on the rank: SwiGLU MLPs and their weighted sum.

#include <cstdint>
#include <vector>

#include "moe/dispatch_plan.h"
#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"
#include "runtime/ops/linear.h"

namespace longhaul::moe {

struct Expert {
  ops::Linear gate_up;  // hidden -> 2 * intermediate, gate rows first
  ops::Linear down;     // intermediate -> hidden
};

class Experts {
 public:
  Experts(std::vector<Expert> experts, DType compute);
  int num_experts() const { return static_cast<int>(experts_.size()); }

  // out[r] = sum over k of weights[r, k] * expert[ids[r, k]](x[r]), summed in accumulator
  // precision in ascending order of the expert number, rounded once to out's dtype.
  // x, out [rows, hidden] compute dtype; ids, weights [rows, top_k].
  void apply(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, TensorView out,
             ThreadPool& pool) const;

 private:
  std::vector<Expert> experts_;
  DType compute_;
};

}  // namespace longhaul::moe
