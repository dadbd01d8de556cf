#pragma once
// Attention computed plainly on the GPU in float64, as the yardstick of the portable kernels, and
// beside it what a straightforward computation in their own type gives, whose error sets the
// tolerance.

#include <cstdint>
#include <vector>

namespace longhaul::test::portable {

struct ReferenceRow {
  int64_t q_row;
  int64_t kv_row;      // of key 0, where there are no pages
  int64_t page_begin;  // -1: no pages
  int64_t visible;     // keys 0 .. visible - 1
};

struct Difference {
  double max_error = 0;        // of the kernel's output against the exact one
  double max_naive_error = 0;  // of the plain computation
  double max_exact = 0;        // largest exact output
  double sum_error2 = 0;       // squares, over all elements
  double sum_naive2 = 0;
  double sum_exact2 = 0;
  double max_lse_error = 0;
  int bad = 0;  // outputs or lse that are NaN, or finite where -inf is due, or the other way round
};

// Tensors on the device, heads and tokens packed: as in attention/backends/cuda/attention.h.
struct ReferenceProblem {
  const void* q;
  const void* k;
  const void* v;
  const void* out;
  const float* lse;
  const int32_t* page_table;
  int page_size;
  bool bf16, out_bf16;
  int head_dim, head_dim_v, num_heads, num_kv_heads;
  double scale;
};

// Compares out and lse of every listed row and head with the reference.
Difference compare(const ReferenceProblem& problem, const std::vector<ReferenceRow>& rows,
                   int64_t max_visible);

// Normal numbers times `scale` in the listed rows of `stride` elements; a row's depend on the seed
// and its number only.
void fill_rows(bool bf16, void* data, int64_t stride, const std::vector<int64_t>& rows,
               uint64_t seed, float scale);

}  // namespace longhaul::test::portable
