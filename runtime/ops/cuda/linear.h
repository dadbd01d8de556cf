#pragma once
// Dense layers on a GPU: y = x W^T + b by cuBLASLt, on weights that somebody else holds.

#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

struct LinearOptions {
  // out += x W^T + b. The product may be rounded to out's type before bias or out are added, as on
  // a CPU.
  bool accumulate = false;
  // Output features [first_feature, first_feature + num_features); num_features -1: all from there.
  int64_t first_feature = 0, num_features = -1;
  // Elements from a row of out to the next; 0: dense. For writing into a part of wider rows: out's
  // shape is still [rows, features].
  int64_t out_row_stride = 0;
  // The bits of a row do not depend on how many rows there are: never a split sum, and one
  // algorithm for every row count until prepare() has seen others give the same bits.
  bool deterministic = false;
};

class Linear {
 public:
  Linear() = default;
  // weight [out_features, in_features], bias [out_features] or undefined (data null), both device
  // memory of type `compute` (f32, without TF32, or bf16 with float32 accumulation) that must
  // outlive this; at least 16-byte aligned for speed.
  Linear(ConstTensorView weight, ConstTensorView bias, DType compute);

  bool defined() const { return weight_.data != nullptr; }
  int64_t in_features() const { return weight_.shape[1]; }
  int64_t out_features() const { return weight_.shape[0]; }
  ConstTensorView weight() const { return weight_; }

  // x [rows, in_features] -> out [rows, features], both compute type, or out in f32 where x is
  // bf16. Any number of rows, 0 included. Queues work on `stream`; allocates only a stream's
  // workspace (32 MiB) the first time a stream is seen on a device. Throws Error(internal) with
  // cuBLAS's status, the call and the shapes.
  void apply(ConstTensorView x, TensorView out, cudaStream_t stream,
             const LinearOptions& options = {}) const;

  // Times the library's proposals for about this many rows and keeps the fastest, for every Linear
  // of the same shape and options on this device; of deterministic ones those that, on random data,
  // give the bits of the fixed choice. Not for the inner loop: it allocates (at most 16384 rows of
  // x and out, given back at the end; too little memory is no error, the first proposal stays) and
  // synchronises `stream`. Row counts share algorithms in classes: powers of two up to 32, then
  // eighths of an octave's end, then all from 16384 on.
  void prepare(int64_t rows, DType out_dtype, cudaStream_t stream,
               const LinearOptions& options = {}) const;

 private:
  ConstTensorView weight_, bias_;
};

}  // namespace longhaul::ops::cuda
