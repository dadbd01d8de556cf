#pragma once
// Random context-parallel runs: whole sequences cut into steps, each step under a layout of its
// own.

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "attention/context_parallel.h"
#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {

// Everything of one run: whole sequences, and how they are cut into steps.
struct Scene {
  DType dtype = DType::f64;
  int cp = 1;
  int layers = 2;
  int64_t heads = 1, kv_heads = 1, dim = 16, dim_v = 16, page_size = 64;
  std::vector<std::vector<layout::SequenceExtent>> steps;
  std::vector<layout::LayoutKind> kinds;     // of each step
  std::vector<int64_t> lengths;              // of each sequence, in the end
  std::vector<std::vector<Tensor>> q, k, v;  // [layers][sequences]
};

// cp 1 to 8 where `cp` is 0.
Scene random_scene(DType dtype, Rng& rng, int cp = 0);

// out and lse of all tokens, [layers][sequences].
struct Outcome {
  std::vector<std::vector<Tensor>> out, lse;
};

Outcome empty_outcome(const Scene& scene);  // all NaN

using MakeBackend = std::unique_ptr<Backend> (*)();

// One rank's part: its rows of `outcome` are written, no others.
void run_rank(const Scene& scene, comm::Communicator& comm, MakeBackend make, bool two_calls,
              Outcome& outcome);

// One sequence and layer with all its keys flat, as a problem with an exact answer. Its items are
// all rows, or those that a rank computed.
Problem flat_problem(const Scene& scene, size_t layer, size_t sequence, int rank = -1);

// Calls check(problem, result) for every sequence and layer.
template <class Check>
void check_scene(const Scene& s, Outcome& outcome, Check&& check, int rank = -1) {
  for (size_t l = 0; l < outcome.out.size(); ++l)
    for (size_t i = 0; i < s.lengths.size(); ++i) {
      if (s.lengths[i] == 0) continue;
      Result r{std::move(outcome.out[l][i]), std::move(outcome.lse[l][i])};
      check(flat_problem(s, l, i, rank), r);
      outcome.out[l][i] = std::move(r.out);
      outcome.lse[l][i] = std::move(r.lse);
    }
}

}  // namespace longhaul::attention::testing
