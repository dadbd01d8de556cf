#pragma once
// Row-wise and element-wise pieces of a decoder layer on a GPU: what runtime/ops/elementwise.h is
// on a CPU, with its rounding. Views hold device memory; tensors are f32 or bf16 (bf16 is computed
// in float32 and rounded once) unless said otherwise. Everything is queued on `stream`: no
// allocation, no synchronisation. Memory that is 16-byte aligned with rows of a multiple of 16
// bytes is fast; any other works. A result depends on its own row only. Shapes that do not fit
// throw Error(internal).

#include <cuda_runtime.h>

#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

// out[i] = table[ids[i]]; table [vocabulary, hidden] of f32, bf16 or f16, ids [rows] i32, out
// [rows, hidden] of any of these types. An id outside the table gives a row of NaN.
void embed(ConstTensorView table, ConstTensorView ids, TensorView out, cudaStream_t stream);
// out[i] = x[rows[i]]; rows [count] i64, x and out of the same type (any) and row shape. A row
// outside x gives a row whose bits are all ones: NaN for floats.
void gather_rows(ConstTensorView x, ConstTensorView rows, TensorView out, cudaStream_t stream);
// Element type conversion between f32, bf16 and f16, and from f64, to nearest even; same shape. Too
// large becomes infinite, NaN stays NaN.
void convert(ConstTensorView in, TensorView out, cudaStream_t stream);

// x += y, same shape and type.
void add(TensorView x, ConstTensorView y, cudaStream_t stream);
// out = silu(gate) * up. gate_up [rows, 2 * n] holds gate then up; out [rows, n].
void swiglu(ConstTensorView gate_up, TensorView out, cudaStream_t stream);

// out = x / sqrt(mean(x^2) + eps) * weight over the last dimension. weight [last dimension], of the
// same type as x. out may be x.
void rms_norm(ConstTensorView x, ConstTensorView weight, double eps, TensorView out,
              cudaStream_t stream);
// hidden += delta, then out = rms_norm(hidden), in one pass; the same bits as add() and rms_norm().
void add_rms_norm(TensorView hidden, ConstTensorView delta, ConstTensorView weight, double eps,
                  TensorView out, cudaStream_t stream);

// out[r] = the lowest index of the largest of logits[r]; NaN never wins, a row of nothing else
// gives 0. logits [rows, vocabulary] f32, vocabulary below 2^31; out [rows] i32.
void argmax_rows(ConstTensorView logits, TensorView out, cudaStream_t stream);

}  // namespace longhaul::ops::cuda
