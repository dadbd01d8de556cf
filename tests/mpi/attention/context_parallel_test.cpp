// The thread-rank test of context-parallel attention, over MPI: every rank checks its own rows, and
// that it wrote no others.

#include <gtest/gtest.h>

#include <cmath>

#include "attention/backends/cpu.h"
#include "attention/backends/reference.h"
#include "tests/support/mpi_main.h"
#include "tests/unit/attention/scenes.h"

namespace longhaul::attention::testing {
namespace {

comm::Communicator& world() {
  return testing_support::session().world();
}

double rms(const std::vector<double>& values) {
  double sum = 0, count = 0;
  for (double v : values)
    if (!std::isnan(v)) sum += v * v, count += 1;
  return count > 0 ? std::sqrt(sum / count) : 1;
}

std::unique_ptr<Backend> make_cpu() {
  return make_cpu_backend();
}

TEST(MpiContextParallel, AgreesWithOneRankInFloat64) {
  Rng rng(21);  // the same on every rank
  for (int i = 0; i < 40; ++i) {
    const Scene s = random_scene(DType::f64, rng, world().size());
    Outcome o = empty_outcome(s);
    run_rank(s, world(), make_reference_backend, i % 3 == 0, o);
    check_scene(
        s, o,
        [&](const Problem& p, const Result& r) {
          const Answer a = solve(p);
          const Difference d = difference(p, r, a);
          EXPECT_LE(d.out, 1e-12 * rms(a.out)) << "case " << i;
          EXPECT_LE(d.lse, 1e-11) << "case " << i;
        },
        world().rank());
  }
}

TEST(MpiContextParallel, AgreesWithOneRankInFloat32) {
  Rng rng(22);
  for (int i = 0; i < 40; ++i) {
    const Scene s = random_scene(DType::f32, rng, world().size());
    Outcome o = empty_outcome(s);
    run_rank(s, world(), make_cpu, i % 3 == 0, o);
    check_scene(
        s, o,
        [&](const Problem& p, const Result& r) {
          const Answer a = solve(p);
          const Difference d = difference(p, r, a);
          // Derived in the thread-rank test: scores 4 sqrt(dim) u A each way, and a few roundings.
          const double u = 6e-8;
          const double bound = (8 * std::sqrt(static_cast<double>(p.dim)) * a.most_score + 12 +
                                2 * std::sqrt(1200.0) + 2 * a.most_score) *
                               u;
          EXPECT_LE(d.out, bound * std::max(1.0, a.most_value)) << "case " << i;
          EXPECT_LE(d.lse, bound) << "case " << i;
        },
        world().rank());
  }
}

}  // namespace
}  // namespace longhaul::attention::testing
