#pragma once
// The vector loops of the cpu backend, compiled for several instruction sets and chosen at run time
// (Highway), so that a binary built on one CPU runs well on another.

#include <cstdint>

#include "runtime/core/dtype.h"

namespace longhaul::attention::cpu {

// Columns of a score tile come in blocks of this many.
constexpr int64_t kColumnBlock = 64;

// The online softmax (Milakov and Gimelshein, arXiv 1805.02867) of one tile of scores, in base 2:
// p = 2^(score * scale_log2 - top), with top the running maximum of score * scale_log2.
struct SoftmaxTile {
  const float* scores = nullptr;  // [rows, columns]
  void* p = nullptr;              // [rows, columns] out; may be `scores` where P is float32
  int64_t rows = 0;
  int64_t columns = 0;               // a multiple of kColumnBlock
  int64_t group = 1;                 // rows of one query token (they share `visible`)
  const int64_t* visible = nullptr;  // [rows / group] columns the token sees; p = 0 in the others
  float scale_log2 = 0;              // >= 0
  float* top = nullptr;              // [rows] in and out; -inf before the first key
  float* sum = nullptr;              // [rows] in and out: sum of p, unrounded
  float* out = nullptr;              // [rows, dim_v], scaled down where `top` rises
  int64_t dim_v = 0;
};

void softmax_f32(const SoftmaxTile& tile);
void softmax_bf16(const SoftmaxTile& tile);  // P rounded to nearest

// out = values * factor over n elements.
void scale_to(const float* values, float factor, int64_t n, float* out);
// Widens n bf16 to float32, exactly.
void widen(const bf16* values, int64_t n, float* out);
// Whether any of n elements is infinite or NaN.
bool any_nonfinite(const float* values, int64_t n);
bool any_nonfinite(const bf16* values, int64_t n);

const char* softmax_target_name();  // the instruction set chosen, "AVX3_DL" ...

}  // namespace longhaul::attention::cpu
