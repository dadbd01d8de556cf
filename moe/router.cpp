#include "moe/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace longhaul::moe {
namespace {

template <class T>
void route_row(const T* logits, const RouterConfig& config, std::vector<int32_t>& order,
               int32_t* ids, T* weights) {
  const int num_experts = config.num_experts;
  order.resize(static_cast<size_t>(num_experts));
  for (int e = 0; e < num_experts; ++e) order[static_cast<size_t>(e)] = e;
  // Softmax is monotonic, so logits order the experts; NaN last.
  auto key = [&](int32_t e) {
    return std::isnan(logits[e]) ? -std::numeric_limits<T>::infinity() : logits[e];
  };
  std::partial_sort(order.begin(), order.begin() + config.top_k, order.end(),
                    [&](int32_t a, int32_t b) {
                      const T x = key(a), y = key(b);
                      return x != y ? x > y : a < b;
                    });
  T largest = -std::numeric_limits<T>::infinity();
  for (int e = 0; e < num_experts; ++e) largest = std::max(largest, key(e));
  T total = 0;
  for (int e = 0; e < num_experts; ++e) total += std::exp(logits[e] - largest);
  T chosen = 0;
  for (int k = 0; k < config.top_k; ++k) {
    const int32_t e = order[static_cast<size_t>(k)];
    ids[k] = e;
    weights[k] = std::exp(logits[e] - largest) / total;
    chosen += weights[k];
  }
  if (config.normalize)
    for (int k = 0; k < config.top_k; ++k) weights[k] /= chosen;
}

template <class T>
void route_rows(ConstTensorView logits, const RouterConfig& config, TensorView ids,
                TensorView weights, ThreadPool& pool) {
  const T* in = logits.as<T>();
  int32_t* id = ids.as<int32_t>();
  T* w = weights.as<T>();
  pool.parallel_ranges(logits.rows(), 64, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order;
    for (int64_t r = begin; r < end; ++r)
      route_row(in + r * config.num_experts, config, order, id + r * config.top_k,
                w + r * config.top_k);
  });
}

}  // namespace

void route(ConstTensorView logits, const RouterConfig& config, TensorView ids, TensorView weights,
           ThreadPool& pool) {
  const int64_t rows = logits.rows();
  LH_CHECK(config.top_k >= 1 && config.top_k <= config.num_experts, "top {} of {} experts",
           config.top_k, config.num_experts);
  LH_CHECK(logits.shape == (Shape{rows, config.num_experts}), "logits {}",
           logits.shape.to_string());
  LH_CHECK(ids.shape == (Shape{rows, config.top_k}) && weights.shape == ids.shape, "ids {}",
           ids.shape.to_string());
  if (logits.dtype == DType::f64)
    route_rows<double>(logits, config, ids, weights, pool);
  else
    route_rows<float>(logits, config, ids, weights, pool);
}

}  // namespace longhaul::moe
