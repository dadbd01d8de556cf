#pragma once
// The definition of right: softmax(scale * q k^T) v by plain loops.
//
// float64 inputs give float64 results. float32 and bf16 inputs are widened exactly, every product,
// sum and exponential is formed in float64, and the result is rounded once to float32: so what
// another backend differs by is that backend's own rounding, and the order of the sums does not
// show. A row's result depends on its own query and on the keys it sees, bit for bit, and not on
// how those keys are cut into segments: they are visited in order of position.

#include <memory>

#include "attention/backend.h"

namespace longhaul::attention {

std::unique_ptr<Backend> make_reference_backend();

}  // namespace longhaul::attention
