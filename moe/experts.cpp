#include "moe/experts.h"

#include <algorithm>
#include <cstring>

#include "runtime/ops/elementwise.h"

namespace longhaul::moe {
namespace {

void gather_rows(ConstTensorView x, const int64_t* rows, TensorView out, ThreadPool& pool) {
  const int64_t bytes = x.row_bytes();
  const auto* from = static_cast<const std::byte*>(x.data);
  auto* to = static_cast<std::byte*>(out.data);
  pool.parallel_ranges(out.rows(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(to + i * bytes, from + rows[i] * bytes, static_cast<size_t>(bytes));
  });
}

// sum[row[i]] += weights[row[i], slot[i]] * y[i]; rows of one expert are distinct.
template <class T>
void add_weighted(ConstTensorView y, ConstTensorView weights, const int64_t* row,
                  const int32_t* slot, TensorView sum, ThreadPool& pool) {
  using A = accumulator_t<T>;
  const int64_t hidden = y.shape[1];
  const int64_t top_k = weights.shape[1];
  const T* from = y.as<T>();
  const A* w = weights.as<A>();
  A* to = sum.as<A>();
  pool.parallel_ranges(y.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A weight = w[row[i] * top_k + slot[i]];
      A* s = to + row[i] * hidden;
      const T* v = from + i * hidden;
      for (int64_t j = 0; j < hidden; ++j) s[j] += weight * static_cast<A>(v[j]);
    }
  });
}

}  // namespace

Experts::Experts(std::vector<Expert> experts, DType compute)
    : experts_(std::move(experts)), compute_(compute) {}

void Experts::apply(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, TensorView out,
                    ThreadPool& pool) const {
  const int64_t rows = x.rows();
  if (rows == 0) return;
  const DispatchPlan plan = make_dispatch_plan(ids, num_experts());
  int64_t most = 0;
  for (int e = 0; e < num_experts(); ++e)
    most = std::max(most, plan.expert_begin[static_cast<size_t>(e) + 1] -
                              plan.expert_begin[static_cast<size_t>(e)]);
  const int64_t hidden = x.shape[1];
  const int64_t intermediate = experts_.front().down.in_features();
  Tensor in(compute_, {most, hidden});
  Tensor gate_up(compute_, {most, 2 * intermediate});
  Tensor act(compute_, {most, intermediate});
  Tensor y(compute_, {most, hidden});
  Tensor sum = Tensor::zeros(accumulator_dtype(compute_), {rows, hidden});
  for (int e = 0; e < num_experts(); ++e) {
    const int64_t begin = plan.expert_begin[static_cast<size_t>(e)];
    const int64_t count = plan.expert_begin[static_cast<size_t>(e) + 1] - begin;
    if (count == 0) continue;
    const Expert& expert = experts_[static_cast<size_t>(e)];
    gather_rows(x, plan.row.data() + begin, in.view().row_range(0, count), pool);
    expert.gate_up.apply(in.view().row_range(0, count), gate_up.view().row_range(0, count), pool);
    ops::swiglu(gate_up.view().row_range(0, count), act.view().row_range(0, count), pool);
    expert.down.apply(act.view().row_range(0, count), y.view().row_range(0, count), pool);
    dispatch_float(compute_, [&](auto t) {
      add_weighted<decltype(t)>(y.view().row_range(0, count), weights, plan.row.data() + begin,
                                plan.slot.data() + begin, sum, pool);
    });
  }
  ops::convert(sum, out);
}

}  // namespace longhaul::moe
