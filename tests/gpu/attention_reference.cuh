#pragma once
// Attention computed plainly on the GPU, as the yardstick of attention_test: the exact result, and
// beside it what a straightforward bf16 implementation would give, whose error sets the tolerance.

#include <cstdint>
#include <vector>

#include "tests/gpu/gpu_test_support.h"

namespace longhaul::test {

struct ReferenceRow {
  int64_t q_row;
  int64_t kv_row;   // of key 0; not used with pages
  int64_t visible;  // keys 0 .. visible - 1
  int64_t page_begin = -1;
};

struct Difference {
  double max_error = 0;        // of the kernel's output against the exact one
  double max_naive_error = 0;  // of the plain bf16 computation
  double max_exact = 0;        // largest exact output
  double sum_error2 = 0;       // squares, over all elements
  double sum_naive2 = 0;
  double sum_exact2 = 0;
  double max_lse_error = 0;
  int bad = 0;  // outputs or lse that are NaN, or finite where -inf is due, or the other way round
};

struct ReferenceProblem {
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  const void* out;
  const float* lse;
  bool out_f32;
  int head_dim, head_dim_v, num_heads, num_kv_heads;
  int64_t q_stride, k_stride, v_stride, out_stride;
  float scale;
  const int32_t* page_table = nullptr;
  int page_size = 1;
};

// Compares out and lse of every listed row and head with the reference.
Difference compare_with_reference(const ReferenceProblem& problem,
                                  const std::vector<ReferenceRow>& rows, int64_t max_visible);

}  // namespace longhaul::test
