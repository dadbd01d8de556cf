#pragma once
// Random attention problems and their answers in float64 by a definition of its own: for every row
// the set of keys it sees, softmax, weighted sum. Nothing here is shared with the code under test.

#include <cstdint>
#include <random>
#include <vector>

#include "attention/backend.h"

namespace longhaul::attention::testing {

using Rng = std::mt19937_64;

inline int64_t uniform(Rng& rng, int64_t low, int64_t high) {  // both ends included
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}
double normal(Rng& rng);

// Reads and writes of one element as double, whatever the dtype.
double get(ConstTensorView t, int64_t i);
void set(TensorView t, int64_t i, double value);
void fill_normal(TensorView t, Rng& rng, double deviation = 1);
void fill(TensorView t, double value);

struct Key {
  int64_t position;
  const void* k;  // [num_kv_heads, head_dim]
  const void* v;
};

struct Problem {
  DType dtype = DType::f32;
  int64_t heads = 1, kv_heads = 1, dim = 16, dim_v = 16;
  bool causal = true;
  double scale = 1;
  int64_t rows = 0;  // of q; more than the items cover
  std::vector<WorkItem> items;
  std::vector<std::vector<KvSegment>> kv;
  Tensor q;
  std::vector<Tensor> memory;  // what the segments point into; NaN between them

  std::vector<Key> keys(int sequence) const;
};

struct ProblemRange {
  int64_t most_keys = 200;
  int64_t most_queries = 60;
  int most_sequences = 4;
};
// Sequences with gaps in their keys (another rank's), segments in any order and of any stride,
// items at any place, some without keys; lengths mostly odd.
Problem random_problem(DType dtype, Rng& rng, const ProblemRange& range = {});

// The same numbers in float64.
struct Answer {
  std::vector<double> out, lse;  // [rows, heads, dim_v], [rows, heads]
  std::vector<bool> covered;     // [rows]
  double most_score = 0;         // largest sum |q_d k_d| * |scale| of a seen key
  double most_value = 0;         // largest |v|
};
// With `round_p`, p is rounded to bf16 before the weighted sum: the naive same-precision reference.
Answer solve(const Problem& problem, bool round_p = false);

// Output tensors filled with NaN, so that what a backend leaves out shows.
struct Result {
  Tensor out, lse;
};
Result run(Backend& backend, const Problem& problem, ThreadPool& pool);

// Largest |difference| of covered rows; rows that no item covers must still be NaN, and rows
// without keys exactly 0 and -inf (else infinity is returned).
struct Difference {
  double out = 0, lse = 0;
};
Difference difference(const Problem& problem, const Result& result, const Answer& answer);

}  // namespace longhaul::attention::testing
