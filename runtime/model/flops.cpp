#include "runtime/model/flops.h"

namespace longhaul::model {

Flops step_flops(const io::ModelConfig& c, int64_t rows, double area, int64_t answers) {
  const auto d = [](int64_t n) { return static_cast<double>(n); };
  const double hidden = d(c.hidden_size);
  const double q = d(c.num_heads) * d(c.head_dim), kv = d(c.num_kv_heads) * d(c.head_dim);
  double weights =
      d(c.num_layers) * (hidden * (q + 2 * kv) + q * hidden);  // a token passes through
  for (bool sparse : c.layer_is_sparse)
    weights += sparse ? hidden * c.moe.num_experts +
                            3 * hidden * d(c.moe.intermediate_size) * c.moe.num_experts_per_tok
                      : 3 * hidden * d(c.intermediate_size);
  Flops f;
  f.linear = 2 * (d(rows) * weights + d(answers) * hidden * d(c.vocab_size));
  f.attention = 4 * q * area * d(c.num_layers);
  return f;
}

}  // namespace longhaul::model
