#pragma once
// Merging of partial attention results over disjoint sets of keys.
//
//   lse = max + log(exp(a - max) + exp(b - max)),  out = (exp(a - max) out_a + exp(b - max) out_b)
//         / (exp(a - max) + exp(b - max))
//
// (Flash decoding; Milakov and Gimelshein, arXiv 1805.02867.) Partials stay in the accumulator
// type; only the last merge rounds. A part with lse -inf is empty: its out is not read, the other
// part passes through bit for bit, and two empty parts give out 0 and lse -inf.

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::attention {

// Attention over some of the keys: out [rows, heads, dim], lse [rows, heads], both f32 or both f64.
struct Partial {
  ConstTensorView out;
  ConstTensorView lse;
};

// Merges a and b (same shapes and type). out [rows, heads, dim] in the accumulator type, or bf16
// (where a and b are f32); lse [rows, heads] accumulator type, or a view without data when not
// wanted. out may be a.out or b.out; lse may be a.lse or b.lse.
void merge_partials(const Partial& a, const Partial& b, TensorView out, TensorView lse,
                    ThreadPool& pool);

// The last step where there is nothing to merge: copies, or rounds to bf16. Same shape.
void store_rounded(ConstTensorView accumulated, TensorView out, ThreadPool& pool);

}  // namespace longhaul::attention
