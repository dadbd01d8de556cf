// Context-parallel attention over ranks that are threads, against one rank that has everything:
// random ragged batches prefilled in several steps, each step under a layout of its own.

#include "attention/context_parallel.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>
#include <limits>

#include "attention/backends/cpu.h"
#include "attention/backends/reference.h"
#include "comm/thread_communicator.h"
#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

using layout::BatchLayout;
using layout::Half;
using layout::LayoutKind;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Everything of one run: whole sequences, and how they are cut into steps.
struct Scene {
  DType dtype = DType::f64;
  int cp = 1;
  int layers = 2;
  int64_t heads = 1, kv_heads = 1, dim = 16, dim_v = 16, page_size = 64;
  std::vector<std::vector<layout::SequenceExtent>> steps;
  std::vector<LayoutKind> kinds;             // of each step
  std::vector<int64_t> lengths;              // of each sequence, in the end
  std::vector<std::vector<Tensor>> q, k, v;  // [layers][sequences]
};

int64_t prime_length(Rng& rng, int64_t most) {
  constexpr int64_t kPrimes[] = {1,  2,  3,  5,  7,  11,  13,  17,  19,  23,  29,  31,  37,  41,
                                 43, 53, 61, 79, 97, 101, 127, 149, 173, 199, 233, 257, 283, 300};
  int64_t n = kPrimes[uniform(rng, 0, 27)];
  while (n > most) n = kPrimes[uniform(rng, 0, 27)];
  return n;
}

Scene random_scene(DType dtype, Rng& rng) {
  constexpr int64_t kHeads[][2] = {{8, 8}, {8, 2}, {6, 1}, {5, 5}};
  constexpr int64_t kDims[] = {16, 16, 24, 32, 40, 64, 80, 96, 128, 256};
  Scene s;
  s.dtype = dtype;
  s.cp = static_cast<int>(uniform(rng, 1, 8));
  const auto& heads = kHeads[uniform(rng, 0, 3)];
  s.heads = heads[0];
  s.kv_heads = heads[1];
  s.dim = kDims[uniform(rng, 0, 9)];
  s.dim_v = uniform(rng, 0, 4) == 0 ? 24 : s.dim;
  s.page_size = uniform(rng, 0, 1) == 0 ? 64 : uniform(rng, 1, 20);
  const bool large = uniform(rng, 0, 29) == 0;
  s.lengths.assign(static_cast<size_t>(uniform(rng, 1, large ? 2 : 8)), 0);
  const auto steps = uniform(rng, 1, 4);
  for (int64_t i = 0; i < steps; ++i) {
    std::vector<layout::SequenceExtent> extents;
    for (int64_t& length : s.lengths) {
      const int64_t extend = uniform(rng, 0, 5) == 0
                                 ? 0
                                 : prime_length(rng, i > 0 && uniform(rng, 0, 1) ? 1
                                                     : large                     ? 300
                                                                                 : 31);
      extents.push_back({length, extend});
      length += extend;
    }
    s.steps.push_back(extents);
    s.kinds.push_back(static_cast<LayoutKind>(uniform(rng, 0, 2)));
  }
  for (std::vector<std::vector<Tensor>>* all : {&s.q, &s.k, &s.v})
    for (int layer = 0; layer < s.layers; ++layer) {
      all->emplace_back();
      for (const int64_t length : s.lengths) {
        all->back().emplace_back(dtype, Shape{length, all == &s.q ? s.heads : s.kv_heads,
                                              all == &s.v ? s.dim_v : s.dim});
        fill_normal(all->back().back(), rng);
      }
    }
  return s;
}

// out and lse of all tokens, [layers][sequences].
struct Outcome {
  std::vector<std::vector<Tensor>> out, lse;
};

Outcome empty_outcome(const Scene& s) {
  Outcome o;
  for (int layer = 0; layer < s.layers; ++layer) {
    o.out.emplace_back();
    o.lse.emplace_back();
    for (const int64_t length : s.lengths) {
      o.out.back().emplace_back(s.dtype, Shape{length, s.heads, s.dim_v});
      o.lse.back().emplace_back(accumulator_dtype(s.dtype), Shape{length, s.heads});
      fill(o.out.back().back(), kNaN);
      fill(o.lse.back().back(), kNaN);
    }
  }
  return o;
}

void copy_rows(ConstTensorView from, TensorView to) {
  ASSERT_EQ(from.num_bytes(), to.num_bytes());
  std::memcpy(to.data, from.data, static_cast<size_t>(from.num_bytes()));
}

// The rank's rows of a per-sequence tensor, in local row order, and back.
template <class Each>
void each_block(const BatchLayout& layout, int rank, Each&& each) {
  for (const Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s)
      if (const layout::Block& b = layout.block(rank, half, s); b.length > 0)
        each(static_cast<size_t>(s), b, layout.row(rank, half, s));
}
Tensor gather(const std::vector<Tensor>& whole, const BatchLayout& layout, int rank,
              const Shape& shape, DType dtype) {
  Tensor local(dtype, shape);
  each_block(layout, rank, [&](size_t s, const layout::Block& b, int64_t row) {
    copy_rows(static_cast<ConstTensorView>(whole[s]).row_range(b.start, b.length),
              local.view().row_range(row, b.length));
  });
  return local;
}

using MakeBackend = std::unique_ptr<Backend> (*)();

void run_rank(const Scene& s, comm::Communicator& comm, MakeBackend make, bool two_calls,
              Outcome& outcome) {
  const auto backend = make();
  ThreadPool pool(comm.rank() % 3 == 2 ? 2 : 1);
  backend->prepare({s.dtype, s.dim, s.dim_v, true, false}, pool.num_threads());
  const int sequences = static_cast<int>(s.lengths.size());
  PagedKvCache cache({s.layers, sequences, s.kv_heads, s.dim, s.dim_v, s.page_size, s.dtype});
  ContextParallelAttention attention(comm, *backend, pool, cache, {Strategy::allgather, two_calls});
  layout::KvOwnership ownership(s.cp, sequences);
  const DType acc = accumulator_dtype(s.dtype);
  for (size_t step = 0; step < s.steps.size(); ++step) {
    const BatchLayout layout = BatchLayout::make(s.kinds[step], s.cp, s.steps[step]);
    ownership.append(layout);
    attention.begin_step(layout, ownership);
    const int64_t rows = layout.num_tokens(comm.rank());
    for (int layer = 0; layer < s.layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      const Tensor q = gather(s.q[l], layout, comm.rank(), {rows, s.heads, s.dim}, s.dtype);
      const Tensor k = gather(s.k[l], layout, comm.rank(), {rows, s.kv_heads, s.dim}, s.dtype);
      const Tensor v = gather(s.v[l], layout, comm.rank(), {rows, s.kv_heads, s.dim_v}, s.dtype);
      Tensor out(s.dtype, {rows, s.heads, s.dim_v}), lse(acc, {rows, s.heads});
      fill(out, kNaN);
      fill(lse, kNaN);
      attention.run(layer, q, k, v, 1 / std::sqrt(static_cast<double>(s.dim)), out, lse);
      each_block(layout, comm.rank(), [&](size_t i, const layout::Block& b, int64_t row) {
        copy_rows(out.view().row_range(row, b.length),
                  outcome.out[l][i].view().row_range(b.start, b.length));
        copy_rows(lse.view().row_range(row, b.length),
                  outcome.lse[l][i].view().row_range(b.start, b.length));
      });
    }
  }
}

Outcome run_scene(const Scene& s, MakeBackend make, bool two_calls = false) {
  Outcome outcome = empty_outcome(s);
  comm::run_threads(s.cp,
                    [&](comm::Communicator& comm) { run_rank(s, comm, make, two_calls, outcome); });
  return outcome;
}

// One sequence and layer on one rank, all keys flat, as a problem with an exact answer.
Problem flat_problem(const Scene& s, size_t layer, size_t sequence) {
  Problem p;
  p.dtype = s.dtype;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.dim = s.dim;
  p.dim_v = s.dim_v;
  p.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  p.rows = s.lengths[sequence];
  p.items = {{0, 0, p.rows, 0, p.rows}};
  p.kv = {{{0, p.rows, s.k[layer][sequence].data(), s.v[layer][sequence].data(), s.kv_heads * s.dim,
            s.kv_heads * s.dim_v}}};
  p.q = Tensor(s.dtype, s.q[layer][sequence].shape());
  copy_rows(s.q[layer][sequence], p.q);
  return p;
}

// Calls check(problem, result) for every sequence and layer.
template <class Check>
void check_scene(const Scene& s, Outcome& outcome, Check&& check) {
  for (size_t l = 0; l < outcome.out.size(); ++l)
    for (size_t i = 0; i < s.lengths.size(); ++i) {
      if (s.lengths[i] == 0) continue;
      Result r{std::move(outcome.out[l][i]), std::move(outcome.lse[l][i])};
      check(flat_problem(s, l, i), r);
      outcome.out[l][i] = std::move(r.out);
      outcome.lse[l][i] = std::move(r.lse);
    }
}

double rms(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::unique_ptr<Backend> make_cpu() {
  return make_cpu_backend();
}

class ContextParallel : public ::testing::Test {
 protected:
  // Fresh memory holds 0xfe: -1.7e38 in float32 and bf16. A row of the cache or of a message that
  // is read without having been written cannot go unseen.
  static void SetUpTestSuite() {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_PERTURB, 1);
  }
  static void TearDownTestSuite() { mallopt(M_PERTURB, 0); }
};

TEST_F(ContextParallel, AgreesWithOneRankInFloat64) {
  Rng rng(11);
  for (int i = 0; i < 250; ++i) {
    const Scene s = random_scene(DType::f64, rng);
    Outcome o = run_scene(s, make_reference_backend, i % 3 == 0);
    check_scene(s, o, [&](const Problem& p, const Result& r) {
      const Answer a = solve(p);
      const Difference d = difference(p, r, a);
      EXPECT_LE(d.out, 1e-12 * rms(a.out)) << "case " << i << " cp " << s.cp;
      EXPECT_LE(d.lse, 1e-12 * std::max(1.0, rms(a.lse))) << "case " << i << " cp " << s.cp;
    });
    if (HasFailure()) return;
  }
}

// The backend's own bound (backend_test.cpp) and three roundings of the merge.
TEST_F(ContextParallel, AgreesWithOneRankInFloat32) {
  Rng rng(12);
  for (int i = 0; i < 200; ++i) {
    const Scene s = random_scene(DType::f32, rng);
    Outcome o = run_scene(s, make_cpu, i % 3 == 0);
    check_scene(s, o, [&](const Problem& p, const Result& r) {
      const Answer a = solve(p);
      const Difference d = difference(p, r, a);
      const double u = 6e-8;
      const double score = 4 * std::sqrt(static_cast<double>(p.dim)) * u * a.most_score;
      const double bound = 2 * score + (12 + 2 * std::sqrt(1200.0) + 2 * a.most_score) * u;
      EXPECT_LE(d.out, bound * std::max(1.0, a.most_value)) << "case " << i << " cp " << s.cp;
      EXPECT_LE(d.lse, bound) << "case " << i << " cp " << s.cp;
    });
    if (HasFailure()) return;
  }
}

// Partials stay float32 until the last merge: however many ranks, the error is that of one rank
// plus one rounding to bf16 (8 bits: 2^-8 of the value).
TEST_F(ContextParallel, RoundsOnceInBf16) {
  Rng rng(13);
  for (int i = 0; i < 200; ++i) {
    const Scene s = random_scene(DType::bf16, rng);
    Outcome o = run_scene(s, make_cpu, i % 3 == 0);
    check_scene(s, o, [&](const Problem& p, const Result& r) {
      const Answer exact = solve(p);
      const Answer naive = solve(p, true);
      double naive_error = 0;
      for (size_t j = 0; j < exact.out.size(); ++j)
        naive_error = std::max(naive_error, std::abs(exact.out[j] - naive.out[j]));
      const Difference d = difference(p, r, exact);
      EXPECT_LE(d.out, 2 * naive_error + exact.most_value * (0x1p-8 + 2e-5))
          << "case " << i << " cp " << s.cp;
      EXPECT_LE(d.lse, 2e-5) << "case " << i << " cp " << s.cp;
    });
    if (HasFailure()) return;
  }
}

void expect_same_bits(const Tensor& a, const Tensor& b, int64_t rows, int what) {
  ASSERT_TRUE(a.shape() == b.shape());
  const auto bytes = static_cast<size_t>(rows * a.view().row_bytes());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), bytes), 0) << "case " << what;
}

TEST_F(ContextParallel, TwoCallsAreOneCall) {
  Rng rng(14);
  for (int i = 0; i < 150; ++i) {
    const Scene s = random_scene(i % 2 == 0 ? DType::f64 : DType::f32, rng);
    const Outcome one = run_scene(s, make_reference_backend, false);
    const Outcome two = run_scene(s, make_reference_backend, true);
    for (size_t l = 0; l < one.out.size(); ++l)
      for (size_t j = 0; j < s.lengths.size(); ++j) {
        expect_same_bits(one.out[l][j], two.out[l][j], s.lengths[j], i);
        expect_same_bits(one.lse[l][j], two.lse[l][j], s.lengths[j], i);
      }
  }
}

// Changing a token changes nothing before it and nothing in other sequences, not even to NaN.
TEST_F(ContextParallel, ALaterTokenLeaksNowhere) {
  Rng rng(15);
  for (int i = 0; i < 150; ++i) {
    Scene s = random_scene(i % 3 == 0 ? DType::f64 : i % 3 == 1 ? DType::f32 : DType::bf16, rng);
    const MakeBackend make = i % 3 == 0 ? make_reference_backend : make_cpu;
    const auto changed =
        static_cast<size_t>(uniform(rng, 0, static_cast<int64_t>(s.lengths.size()) - 1));
    if (s.lengths[changed] == 0) continue;
    const Outcome before = run_scene(s, make);
    const int64_t token = uniform(rng, 0, s.lengths[changed] - 1);
    for (size_t l = 0; l < s.q.size(); ++l)
      for (std::vector<Tensor>* all : {&s.q[l], &s.k[l], &s.v[l]})
        fill((*all)[changed].view().row_range(token, 1), i % 2 == 0 ? kNaN : 3.5);
    const Outcome after = run_scene(s, make);
    for (size_t l = 0; l < s.q.size(); ++l)
      for (size_t j = 0; j < s.lengths.size(); ++j) {
        const int64_t rows = j == changed ? token : s.lengths[j];
        expect_same_bits(before.out[l][j], after.out[l][j], rows, i);
        expect_same_bits(before.lse[l][j], after.lse[l][j], rows, i);
      }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace longhaul::attention::testing
