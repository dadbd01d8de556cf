// The experts on a GPU against a reference in double precision.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/gpu/moe/experts_problem.h"

namespace longhaul::test {
namespace {

using moe::cuda::ExpertShape;

int setting(const char* name, int usual) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : usual;
}

class ExpertsTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
    cudaDeviceProp p{};
    LH_CUDA(cudaGetDeviceProperties(&p, 0));
    if (p.major < 8) GTEST_SKIP() << p.name;
    hopper = p.major == 9 && p.minor == 0;
  }
  // What can run here of each dtype.
  std::vector<std::pair<DType, std::string>> kernels() const {
    std::vector<std::pair<DType, std::string>> all{{DType::f32, ""}, {DType::bf16, "portable"}};
    if (hopper) all.push_back({DType::bf16, "sm90"});
    return all;
  }
  bool hopper = false;
};

double rms(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum / static_cast<double>(std::max<size_t>(1, x.size())));
}

std::vector<double> difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return d;
}

std::vector<int64_t> sample(int64_t rows, size_t most, uint64_t seed) {
  std::vector<int64_t> all;
  if (static_cast<size_t>(rows) <= most) {
    for (int64_t r = 0; r < rows; ++r) all.push_back(r);
    return all;
  }
  std::mt19937_64 random(seed);
  all = {0, rows - 1};
  while (all.size() < most)
    all.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(rows)));
  return all;
}

// bf16: the root mean square error is at most that of a plain bf16 computation, which rounds gate
// and up where this one does not, times two. float32: unit roundoff 2^-24; a dot product of n
// random terms is off by about sqrt(n) roundoffs, and there are two in a row and top_k terms after
// them.
void expect_right(ExpertsProblem& p, bool residual, const std::string& what) {
  const std::vector<int64_t> rows = sample(p.rows, 96, 7);
  if (rows.empty()) return;
  const std::vector<double> exact = p.reference(rows, residual, false);
  const std::vector<double> error = difference(p.output(rows), exact);
  double allowed = 0;
  if (p.bf16()) {
    allowed = 2 * rms(difference(p.reference(rows, residual, true), exact));
  } else {
    allowed = 0x1p-24 * rms(exact) *
              (2 * std::sqrt(static_cast<double>(p.shape.hidden)) +
               2 * std::sqrt(static_cast<double>(p.shape.intermediate)) + p.shape.top_k + 2);
  }
  EXPECT_LE(rms(error), allowed) << what << ", kernel " << p.experts->kernel();
  // One wrong element in a large tensor hardly moves the mean.
  double largest = 0;
  for (const double e : error) largest = std::isnan(e) ? INFINITY : std::max(largest, std::abs(e));
  EXPECT_LE(largest, (p.bf16() ? 12 : 40) * std::max(allowed, 1e-30))
      << what << ", kernel " << p.experts->kernel();
}

TEST_F(ExpertsTest, RandomShapes) {
  std::mt19937 random(3);
  const auto up_to = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  const int cases = setting("LONGHAUL_GPU_CASES", 40);
  for (int i = 0; i < cases; ++i) {
    for (const auto& [dtype, kernel] : kernels()) {
      ExpertShape s;
      s.dtype = dtype;
      s.num_experts = 1 + up_to(i % 5 == 0 ? 200 : 20);
      s.top_k = 1 + up_to(std::min(s.num_experts, 9));
      s.hidden = 8 * (1 + up_to(40));
      s.intermediate = 8 * (1 + up_to(i % 2 == 0 ? 12 : 48));
      const int rows = up_to(i % 3 == 0 ? 1500 : 200);
      ExpertsProblem p(s, rows, kernel, static_cast<uint64_t>(i) + 1);
      const bool residual = up_to(2) == 1;
      p.apply(residual);
      expect_right(p, residual,
                   fmt::format("case {}: {} experts, top {}, hidden {}, intermediate {}, {} rows",
                               i, s.num_experts, s.top_k, s.hidden, s.intermediate, rows));
    }
  }
}

TEST_F(ExpertsTest, Corners) {
  for (const auto& [dtype, kernel] : kernels()) {
    for (const auto& [hidden, intermediate] : {std::pair{64, 48}, {128, 96}, {2048, 768}}) {
      ExpertShape s{8, 2, hidden, intermediate, false, dtype};
      for (const int rows : {0, 1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 513}) {
        ExpertsProblem p(s, rows, kernel, static_cast<uint64_t>(rows) + 11);
        p.apply(false);
        expect_right(p, false, fmt::format("{} rows, hidden {}", rows, hidden));
        // All rows to the last two experts, and once more with a residual.
        std::vector<int32_t> ids(static_cast<size_t>(rows) * 2);
        for (size_t j = 0; j < ids.size(); ++j) ids[j] = j % 2 == 0 ? 7 : 6;
        LH_CUDA(cudaMemcpy(p.ids.get(), ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
        p.apply(true);
        expect_right(p, true, fmt::format("{} rows to two experts, hidden {}", rows, hidden));
      }
    }
  }
}

TEST_F(ExpertsTest, RealShape) {
  for (const auto& [dtype, kernel] : kernels()) {
    if (dtype == DType::f32) continue;
    ExpertShape s{128, 8, 2048, 768, true, dtype};
    ExpertsProblem p(s, 3000, kernel, 5);
    p.apply(true);
    expect_right(p, true, "Qwen3-30B-A3B");
  }
}

// A row's bits depend on nothing but the row.
TEST_F(ExpertsTest, RowsDoNotInfluenceEachOther) {
  for (const auto& [dtype, kernel] : kernels()) {
    ExpertShape s{16, 4, 256, 192, false, dtype};
    ExpertsProblem p(s, 700, kernel, 9);
    p.apply(false);
    const std::vector<uint8_t> together = p.out.to_host();
    p.out.fill_byte(0xff);
    for (int64_t begin = 0; begin < 700; begin += 93)
      p.apply(false, begin, std::min<int64_t>(93, 700 - begin));
    EXPECT_EQ(together, p.out.to_host()) << p.experts->kernel();
  }
}

TEST_F(ExpertsTest, RepeatsBitForBit) {
  const int repeats = setting("LONGHAUL_GPU_REPEATS", 50);
  for (const auto& [dtype, kernel] : kernels()) {
    ExpertShape s{64, 8, 512, 384, false, dtype};
    ExpertsProblem p(s, 2000, kernel, 13);
    p.apply(false);
    const std::vector<uint8_t> first = p.out.to_host();
    for (int i = 0; i < repeats; ++i) {
      p.scratch->fill_byte(i % 2 == 0 ? 0xff : 0x7f);
      p.apply(false);
      ASSERT_EQ(first, p.out.to_host()) << p.experts->kernel() << ", repeat " << i;
    }
  }
}

TEST_F(ExpertsTest, PermutedRowsPast2To31Elements) {
  size_t free = 0, total = 0;
  LH_CUDA(cudaMemGetInfo(&free, &total));
  if (free < (size_t{14} << 30)) GTEST_SKIP() << "less than 14 GiB free";
  for (const char* kernel : {"portable", "sm90"}) {
    if (!hopper && std::strcmp(kernel, "sm90") == 0) continue;
    ExpertShape s{32, 8, 2048, 64, false, DType::bf16};
    ExpertsProblem p(s, 131200, kernel, 17);  // x 8 x 2048 = 2^31 + 2^21
    p.apply(false);
    expect_right(p, false, "2^31");
  }
}

TEST(ExpertShapeTest, SaysWhyNot) {
  std::string why;
  EXPECT_TRUE(moe::cuda::supported({8, 2, 64, 48, false, DType::bf16}, &why));
  EXPECT_FALSE(moe::cuda::supported({8, 2, 60, 48, false, DType::bf16}, &why));
  EXPECT_NE(why.find("60"), std::string::npos) << why;
  EXPECT_FALSE(moe::cuda::supported({8, 9, 64, 48, false, DType::bf16}, &why));
  EXPECT_FALSE(moe::cuda::supported({8, 2, 64, 48, false, DType::f64}, &why));
}

}  // namespace
}  // namespace longhaul::test
