#pragma once
// Row-wise and element-wise pieces of a decoder layer on a CPU rank. Tensors are f64, f32 or bf16;
// bf16 is computed in float32 and rounded once.

#include <cstdint>
#include <span>

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::ops {

// out = x / sqrt(mean(x^2) + eps) * weight over the last dimension (RMSNorm, arXiv 1910.07467).
// weight [last dimension], same dtype as x. out may be x.
void rms_norm(ConstTensorView x, ConstTensorView weight, double eps, TensorView out,
              ThreadPool& pool);
// x += y, same shape and dtype.
void add(TensorView x, ConstTensorView y, ThreadPool& pool);
// out = silu(gate) * up. gate_up [rows, 2 * n] holds gate then up; out [rows, n].
void swiglu(ConstTensorView gate_up, TensorView out, ThreadPool& pool);
// out[i] = table[ids[i]]; table [vocabulary, hidden] of any floating type, converted to out's.
void embed(ConstTensorView table, std::span<const int32_t> ids, TensorView out, ThreadPool& pool);
// Copies columns [begin, begin + count) of x [rows, n] to packed out [rows, count].
void copy_columns(ConstTensorView x, int64_t begin, int64_t count, TensorView out,
                  ThreadPool& pool);
// Element type conversion among f64, f32, bf16 and from f16, to nearest even; same shape. Too large
// becomes infinite, NaN stays NaN. `in` may lie at any address (a mapped file).
void convert(ConstTensorView in, TensorView out);

}  // namespace longhaul::ops
