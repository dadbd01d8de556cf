#pragma once
// Float64 matrix product with packed weights, for the exact comparisons between ways of splitting.
// Private to runtime/ops.

#include <cstdint>

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::ops::f64 {

// W [out, in] (any float dtype) as panels of some columns of W^T: [out / width][in][width], the
// last panel filled up with zeros.
Tensor pack(ConstTensorView weight);

// dst [rows, out] = src [rows, in] * W^T + bias (or null). Each element is one sum in order of
// `in`, whatever the number of rows and threads.
void multiply(const double* src, const Tensor& packed, const double* bias, double* dst,
              int64_t rows, int64_t in, int64_t out, ThreadPool& pool);

}  // namespace longhaul::ops::f64
