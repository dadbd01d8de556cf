#pragma once
// Dense layers on a CPU rank: y = x W^T + b, weights packed once for the machine's matrix kernels.

#include <memory>
#include <string>

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::ops {

class Linear {
 public:
  Linear();
  // weight [out_features, in_features], bias [out_features] or undefined; any of f32, f16, bf16,
  // f64 as stored; `compute` is the dtype of x and y (f64: plain double loops; f32; bf16 with
  // float32 accumulation). Keeps a packed copy, accounted as MemoryUse::weights.
  Linear(ConstTensorView weight, ConstTensorView bias, DType compute);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  bool defined() const { return impl_ != nullptr; }
  int64_t in_features() const;
  int64_t out_features() const;

  // x [rows, in_features] -> out [rows, out_features], both compute dtype, or out in f32 where x is
  // bf16. Any number of rows, 0 included. A row's result does not depend on the other rows' values
  // (it may depend on how many rows there are, within rounding). One caller at a time.
  void apply(ConstTensorView x, TensorView out, ThreadPool& pool) const;

  // True where a row's bits do not depend on the number of rows either: always in f64, otherwise
  // where every row count gets a kernel of the same family (oneDNN's brgemm, which needs AVX-512).
  bool row_count_independent() const;
  // The kernel for many rows, e.g. "brg:avx512_core_bf16", for `bench` and `info`.
  std::string kernel_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::ops
