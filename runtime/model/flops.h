#pragma once
// How much arithmetic a prefill needs, for TFLOP/s in reports: multiply and add are two; matrix
// products and attention's unmasked area only (norms, RoPE and softmax are left out, as the field
// counts).

#include <cstdint>

#include "runtime/io/model_config.h"

namespace longhaul::model {

struct Flops {
  double linear = 0;     // projections, MLPs, router, vocabulary
  double attention = 0;  // q k^T and weights times v
  double total() const { return linear + attention; }
  Flops& operator+=(const Flops& o) {
    linear += o.linear;
    attention += o.attention;
    return *this;
  }
};

// Of `rows` tokens whose queries see `area` query x key pairs together, `answers` of which go
// through the vocabulary projection.
Flops step_flops(const io::ModelConfig& config, int64_t rows, double area, int64_t answers);

}  // namespace longhaul::model
