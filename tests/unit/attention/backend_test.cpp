// Every backend against a definition of attention written for the tests.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "attention/backends/cpu.h"
#include "attention/backends/reference.h"
#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

// float32: a score is a sum of `dim` rounded products, of expected error sqrt(dim) u A with A the
// sum of the magnitudes; a factor of 4 covers the largest of the few million that a test forms. An
// error e of the scores moves each weight by a factor 1 + e, so the output by at most 2 e max|v|;
// weights, sums and the division add a few roundings each and sqrt(keys) in the sums.
double f32_bound(const Problem& p, const Answer& a, double most_keys) {
  constexpr double u = 6e-8;
  const double score = 4 * std::sqrt(static_cast<double>(p.dim)) * u * a.most_score;
  return 2 * score + (8 + 2 * std::sqrt(most_keys) + 2 * a.most_score) * u;
}

TEST(ReferenceBackend, IsTheDefinitionInFloat64) {
  Rng rng(1);
  ThreadPool pool(2);
  const auto backend = make_reference_backend();
  for (int i = 0; i < 120; ++i) {
    const Problem p = random_problem(DType::f64, rng);
    const Difference d = difference(p, run(*backend, p, pool), solve(p));
    // The same sums in another order: sqrt-like growth, far below this.
    EXPECT_LE(d.out, 1e-13) << i;
    EXPECT_LE(d.lse, 1e-13) << i;
  }
}

TEST(ReferenceBackend, RoundsOnceInFloat32AndBf16) {
  Rng rng(2);
  ThreadPool pool(2);
  const auto backend = make_reference_backend();
  for (int i = 0; i < 120; ++i) {
    const Problem p = random_problem(i % 2 == 0 ? DType::f32 : DType::bf16, rng);
    const Answer a = solve(p);
    const Difference d = difference(p, run(*backend, p, pool), a);
    EXPECT_LE(d.out, 6e-8 * a.most_value + 1e-12) << i;
    EXPECT_LE(d.lse, 6e-8 * (a.most_score + 6) + 1e-12) << i;
  }
}

TEST(CpuBackend, AgreesInFloat32) {
  Rng rng(3);
  ThreadPool pool(2);
  const auto backend = make_cpu_backend();
  for (int i = 0; i < 150; ++i) {
    const Problem p = random_problem(DType::f32, rng, {i % 8 == 0 ? 900 : 150, 40, 3});
    const Answer a = solve(p);
    const Difference d = difference(p, run(*backend, p, pool), a);
    const double bound = f32_bound(p, a, 900);
    EXPECT_LE(d.out, bound * std::max(a.most_value, 1.0)) << i;
    EXPECT_LE(d.lse, bound) << i;
  }
}

// Few queries on many keys: key ranges are cut for the threads and joined. Many queries on many
// keys: tiles are packed and shared. Both, with every type of tile.
TEST(CpuBackend, CutsLongKeyRangesAndSharesPackedTiles) {
  Rng rng(6);
  ThreadPool pool(3);
  for (int i = 0; i < 12; ++i) {
    Problem p;
    p.dtype = i % 3 == 0 ? DType::f32 : DType::bf16;
    p.heads = 6;
    p.kv_heads = i % 2 == 0 ? 1 : 2;
    p.dim = p.dim_v = i % 4 == 0 ? 40 : 32;
    p.scale = 0.2;
    const bool few = i < 6;
    const int64_t keys = few ? 5003 : 1307;
    p.rows = few ? uniform(rng, 1, 3) : 211;
    p.items = {{0, 0, p.rows, keys - p.rows, keys}};
    p.q = Tensor(p.dtype, {p.rows, p.heads, p.dim});
    fill_normal(p.q, rng);
    Tensor k(p.dtype, {keys, p.kv_heads, p.dim}), v(p.dtype, {keys, p.kv_heads, p.dim});
    fill_normal(k, rng);
    fill_normal(v, rng);
    p.kv = {{{0, keys, k.data(), v.data(), p.kv_heads * p.dim, p.kv_heads * p.dim}}};
    const auto backend = make_cpu_backend({.widen_bf16 = i % 3 == 1});
    const Answer a = solve(p);
    const Difference d = difference(p, run(*backend, p, pool), a);
    // bf16: P is off by up to 2^-9 of itself, at random: 2^-9 |v| is a generous multiple of the
    // sum.
    const double rounding = p.dtype == DType::bf16 && i % 3 != 1 ? 0x1p-9 : 3e-6;
    const double bound = f32_bound(p, a, 5003);
    EXPECT_LE(d.out, (bound + rounding) * a.most_value) << i;
    EXPECT_LE(d.lse, bound + 3e-6) << i;
  }
}

// FlashAttention's rule (tests of Dao-AILab/flash-attention): at most twice the error of a naive
// computation in the same precision; the float32 part of the error is the tolerance beside it.
void expect_flash_rule(Backend& backend, uint64_t seed, int problems) {
  Rng rng(seed);
  ThreadPool pool(2);
  for (int i = 0; i < problems; ++i) {
    const Problem p = random_problem(DType::bf16, rng, {i % 8 == 0 ? 900 : 150, 40, 3});
    const Answer exact = solve(p);
    const Answer naive = solve(p, true);
    double naive_error = 0;
    for (size_t j = 0; j < exact.out.size(); ++j)
      if (!std::isnan(exact.out[j]))
        naive_error = std::max(naive_error, std::abs(exact.out[j] - naive.out[j]));
    const Difference d = difference(p, run(backend, p, pool), exact);
    const double bound = f32_bound(p, exact, 900) + 3e-6;  // and the polynomial's 2.9e-6
    EXPECT_LE(d.out, 2 * naive_error + bound * std::max(exact.most_value, 1.0)) << i;
    EXPECT_LE(d.lse, bound) << i;
  }
}

TEST(CpuBackend, AgreesInBf16) {
  expect_flash_rule(*make_cpu_backend(), 4, 120);
}
TEST(CpuBackend, AgreesInBf16OnFloat32Tiles) {
  expect_flash_rule(*make_cpu_backend({.widen_bf16 = true}), 5, 80);
}

}  // namespace
}  // namespace longhaul::attention::testing
