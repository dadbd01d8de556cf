// The GPU kernels as a backend of host tensors against a definition of attention written for the
// tests: segments in any order with gaps between them, items at any place.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention/backends/cuda/cuda_backend.h"
#include "runtime/core/cuda/device.h"
#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

class CudaBackend : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (longhaul::cuda::device_count(&why) == 0) GTEST_SKIP() << why;
  }

  // A problem the backend supports, its head dims among those of real models.
  Problem next_problem(const Backend& backend, DType dtype, Rng& rng, int64_t most_keys) {
    while (true) {
      Problem p = random_problem(dtype, rng, {most_keys, 90, 3});
      if (backend.supports({dtype, p.dim, p.dim_v, p.causal, false}).ok) return p;
    }
  }
};

// Float32 rounding of scores, sums and merges. A score is a sum of `dim` products; the error e of a
// score moves each weight by a factor 1 + e, so the output by at most 2 e max|v|.
double f32_bound(const Problem& p, const Answer& a, double most_keys) {
  constexpr double u = 6e-8;
  const double score = 4 * std::sqrt(static_cast<double>(p.dim)) * u * a.most_score;
  return 2 * score + (8 + 2 * std::sqrt(most_keys) + 2 * a.most_score) * u;
}

TEST_F(CudaBackend, AgreesInBf16) {
  Rng rng(11);
  ThreadPool pool(1);
  const auto backend = make_cuda_backend();
  ASSERT_TRUE(backend->supports({DType::bf16, 128, 128, true, false}).ok);
  for (int i = 0; i < 150; ++i) {
    const Problem p = next_problem(*backend, DType::bf16, rng, i % 8 == 0 ? 900 : 200);
    const Answer exact = solve(p);
    const Answer naive = solve(p, true);
    double naive_error = 0;
    for (size_t j = 0; j < exact.out.size(); ++j) {
      if (!std::isnan(exact.out[j])) {
        naive_error = std::max(naive_error, std::abs(exact.out[j] - naive.out[j]));
      }
    }
    const Difference d = difference(p, run(*backend, p, pool), exact);
    // FlashAttention's rule: twice the error of a naive computation of the same precision. The
    // naive one rounds the largest weight, 1, exactly, ours by up to 2^-9.
    const double bound = f32_bound(p, exact, 900) + 3e-6;
    EXPECT_LE(d.out, 2 * naive_error + (bound + 0x1p-9) * std::max(exact.most_value, 1.0)) << i;
    EXPECT_LE(d.lse, 4 * bound) << i;  // tensor cores cut off the sums they round
  }
}

TEST_F(CudaBackend, AgreesInFloat32) {
  Rng rng(12);
  ThreadPool pool(1);
  const auto backend = make_cuda_backend();
  const Support support = backend->supports({DType::f32, 128, 128, true, false});
  if (!support.ok) GTEST_SKIP() << support.why_not;
  for (int i = 0; i < 150; ++i) {
    const Problem p = next_problem(*backend, DType::f32, rng, i % 8 == 0 ? 900 : 200);
    const Answer exact = solve(p);
    const Difference d = difference(p, run(*backend, p, pool), exact);
    const double bound = f32_bound(p, exact, 900);
    EXPECT_LE(d.out, bound * std::max(exact.most_value, 1.0)) << i;
    EXPECT_LE(d.lse, bound) << i;
  }
}

TEST_F(CudaBackend, SaysWhatItCannotDo) {
  const auto backend = make_cuda_backend();
  const Support support = backend->supports({DType::f64, 128, 128, true, false});
  EXPECT_FALSE(support.ok);
  EXPECT_FALSE(support.why_not.empty());
}

}  // namespace
}  // namespace longhaul::attention::testing
