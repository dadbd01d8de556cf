// Context-parallel attention over ranks that are threads, against one rank that has everything:
// random ragged batches prefilled in several steps, each step under a layout of its own.

#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "attention/backends/cpu.h"
#include "attention/backends/reference.h"
#include "comm/thread_communicator.h"
#include "tests/unit/attention/scenes.h"

namespace longhaul::attention::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Outcome run_scene(const Scene& s, MakeBackend make, bool two_calls = false) {
  Outcome outcome = empty_outcome(s);
  comm::run_threads(s.cp,
                    [&](comm::Communicator& comm) { run_rank(s, comm, make, two_calls, outcome); });
  return outcome;
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
  for (int i = 0; i < 150; ++i) {
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
  for (int i = 0; i < 100; ++i) {
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
  for (int i = 0; i < 100; ++i) {
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
