#pragma once
// Where the model hands out its intermediates. Null by default; HDF5 dumps implement it.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::io {

class ActivationSink {
 public:
  virtual ~ActivationSink() = default;
  // Every rank calls these in the same order. `layout` tells which (sequence, position) each local
  // row is. Names: "embedding", "layers.03.k", ... (README, "Names").
  virtual bool wants(std::string_view name) const = 0;
  virtual void begin_step(const layout::BatchLayout& layout, int cp_rank) = 0;
  // One row a local token in local row order; dims annotation such as "t h d".
  virtual void write(std::string_view name, ConstTensorView rows, std::string_view dims) = 0;
  virtual void end_step() = 0;
};

}  // namespace longhaul::io
