#pragma once
// Sampled results against float64 sums on the host, beside what a plain computation in the same
// type would give: its error is the yardstick.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::apps {

// Over the elements of all samples. Mergeable over ranks: maxima and sums.
struct SampleErrors {
  double largest = 0;      // |result - exact|; infinite where a result is no number
  double plain = 0;        // the same of the plain computation
  double squares = 0;      // of the exact values
  double count = 0;        // elements
  double lse_largest = 0;  // |lse - exact|

  double rms() const;
  double over_rms() const { return largest / rms(); }
  // What over_rms() may be: twice the plain computation's (FlashAttention's rule), and at least
  // `least`.
  double bound(double least) const;
  void add(const SampleErrors& o);
};
// "3.1e-03 <= 6.5e-03 ok" or "7.0e-03 > 6.5e-03 WRONG".
std::string verdict(double error, double bound);

// A query and a head. The head reads `visible` keys from key_row on.
struct AttentionSample {
  int64_t index = 0;  // of its row in q, out and lse as they were given
  int64_t head = 0;
  int64_t key_row = 0;
  int64_t visible = 0;  // at least 1
};

// Host memory. q, out [samples' rows, num_heads, head_dim(_v)], lse [samples' rows, num_heads] f32;
// kv [keys, num_kv_heads * (head_dim + head_dim_v)], a row being the keys of all heads and then the
// values; q, kv and out of one type, f32 or bf16. Plain: float32 scores, weights rounded to the
// type, float32 sums, result rounded to the type.
SampleErrors check_attention(const std::vector<AttentionSample>& samples, ConstTensorView q,
                             ConstTensorView kv, int64_t num_kv_heads, int64_t head_dim,
                             double scale, ConstTensorView out, ConstTensorView lse,
                             ThreadPool& pool);

// Experts of a row: x, out [hidden], weights of its experts; sums over the experts chosen.
struct ExpertSample {
  const void* x = nullptr;
  const void* out = nullptr;
  std::vector<const void*> gate_up;  // [2 * intermediate, hidden] of each expert chosen
  std::vector<const void*> down;     // [hidden, intermediate]
  std::vector<float> weights;        // of the experts
};
// `columns`: elements of `out` to check. Plain: the activation and each expert's output are rounded
// to the type, then the sum.
SampleErrors check_experts(const std::vector<ExpertSample>& samples,
                           const std::vector<int64_t>& columns, DType dtype, int64_t hidden,
                           int64_t intermediate, ThreadPool& pool);

}  // namespace longhaul::apps
