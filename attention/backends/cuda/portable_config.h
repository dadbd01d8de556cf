#pragma once
// Which compiled kernel a shape runs on.

#include "attention/backends/cuda/attention.h"
#include "attention/backends/cuda/portable_params.h"

namespace longhaul::attention::cuda::portable {

// The smallest kernel that holds a supported shape: calls f with its configuration.
template <class F>
decltype(auto) with_config(const Shape& shape, F&& f) {
  const int d = shape.head_dim, dv = shape.head_dim_v;
  if (shape.dtype == DType::f32) {
    if (dv <= 64) return f(F32Dv64{});
    if (dv <= 128) return f(F32Dv128{});
    return f(F32Dv256{});
  }
  const int most = d > dv ? d : dv;
  if (most <= 32) return f(Bf16D32{});
  if (most <= 64) return f(Bf16D64{});
  if (most <= 96) return f(Bf16D96{});
  if (most <= 128) return f(Bf16D128{});
  if (d <= 192 && dv <= 128) return f(Bf16D192{});
  return f(Bf16D256{});
}

}  // namespace longhaul::attention::cuda::portable
