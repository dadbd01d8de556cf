#pragma once
// Vectorised inner loops of the element-wise operators (Highway, chosen for the CPU at run time).
// Dense rows; f32 and bf16 are computed in float32 and rounded once, f64 in plain double loops.
// A result depends on its own row only. Private to runtime/ops.

#include <cstdint>

#include "runtime/core/dtype.h"

namespace longhaul::ops::kernels {

// Element type conversion, to nearest even. Pointers need not be aligned.
void widen(const bf16* in, float* out, int64_t n);
void narrow(const float* in, bf16* out, int64_t n);

// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, rows of n.
void rms_norm(const double* x, const double* weight, double eps, double* out, int64_t rows,
              int64_t n);
void rms_norm(const float* x, const float* weight, double eps, float* out, int64_t rows, int64_t n);
void rms_norm(const bf16* x, const bf16* weight, double eps, bf16* out, int64_t rows, int64_t n);

// x += y.
void add(double* x, const double* y, int64_t n);
void add(float* x, const float* y, int64_t n);
void add(bf16* x, const bf16* y, int64_t n);

// out [rows, n] = silu(gate) * up, gate_up [rows, gate n | up n].
void swiglu(const double* gate_up, double* out, int64_t rows, int64_t n);
void swiglu(const float* gate_up, float* out, int64_t rows, int64_t n);
void swiglu(const bf16* gate_up, bf16* out, int64_t rows, int64_t n);

// Rotates the two halves of each of x's `heads` vectors of 2 * half elements by one angle each.
void rotate(const double* cos, const double* sin, double* x, int64_t heads, int64_t half);
void rotate(const float* cos, const float* sin, float* x, int64_t heads, int64_t half);
void rotate(const float* cos, const float* sin, bf16* x, int64_t heads, int64_t half);

// FLOP/s of one thread in a loop of independent float32 multiply-adds for about `seconds`.
double multiply_add_rate(double seconds);
const char* target_name();  // Highway's name of the chosen instruction set

}  // namespace longhaul::ops::kernels
