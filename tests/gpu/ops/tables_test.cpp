// What is computed from indexes: random weights and RoPE tables; and sizes past 2^31 elements.

#include <algorithm>

#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/qkv.h"
#include "runtime/ops/cuda/random.h"
#include "runtime/ops/cuda/rope.h"
#include "tests/gpu/ops/ops_test_support.h"

namespace longhaul::test {
namespace {

using namespace ops::cuda;

// As runtime/io/random_checkpoint.cpp has it, said again.
float random_value(uint64_t key, uint64_t index, float mean, float deviation) {
  uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z = z ^ (z >> 31);
  const auto sum =
      static_cast<int32_t>((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
  const float normal = static_cast<float>(sum - 131070) * (1.0F / 37837.2266F);
  const volatile float scaled = deviation * normal;  // volatile: no fused multiply-add
  return mean + scaled;
}

TEST_F(GpuOps, FillRandomMakesACheckpointsBits) {
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{70001}})
    for (const float mean : {0.0F, 1.0F}) {
      const uint64_t key = random_();
      std::vector<float> want32;
      std::vector<uint16_t> want16;
      for (int64_t i = 0; i < count; ++i) {
        want32.push_back(random_value(key, static_cast<uint64_t>(i), mean, 0.02F));
        want16.push_back(bf16(want32.back()).bits);
      }
      const DeviceTensor f32 = poisoned(DType::f32, {count}), b16 = poisoned(DType::bf16, {count});
      const DeviceTensor half = poisoned(DType::f16, {count}), back = poisoned(DType::f32, {count});
      fill_random(f32, key, mean, 0.02F, stream());
      fill_random(b16, key, mean, 0.02F, stream());
      fill_random(half, key, mean, 0.02F, stream());
      EXPECT_EQ(download_as<float>(f32), want32);
      std::vector<uint16_t> bits;
      for (const bf16 v : download_as<bf16>(b16)) bits.push_back(v.bits);
      EXPECT_EQ(bits, want16);
      // To nearest even in half precision: scaled so that a unit of the last place is 1.
      std::vector<f16> halves = download_as<f16>(half);
      for (size_t i = 0; i < halves.size(); ++i) {
        const int exponent = std::max(std::ilogb(want32[i]), -14);
        const double unit = std::ldexp(1.0, exponent - 10);
        const double want = std::nearbyint(static_cast<double>(want32[i]) / unit) * unit;
        const int bits16 = halves[i].bits, e = bits16 >> 10 & 31, m = bits16 & 1023;
        const double magnitude = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
        ASSERT_EQ((bits16 & 0x8000) != 0 ? -magnitude : magnitude, want) << i;
      }
    }
}

TEST_F(GpuOps, RopeTableKeepsItsDigitsAtFarPositions) {
  for (const int64_t half : {1, 7, 64, 128}) {
    std::vector<int64_t> positions = {0, 1, 2, 1000000, (int64_t{1} << 31) + 5, int64_t{1} << 40};
    for (int i = 0; i < 300; ++i) positions.push_back(between(0, 2000000));
    std::vector<double> frequencies;
    for (int64_t i = 0; i < half; ++i)
      frequencies.push_back(std::pow(1e6, -static_cast<double>(i) / static_cast<double>(half)));
    const auto rows = static_cast<int64_t>(positions.size());
    const DeviceTensor dp = upload_as(positions, {rows}), df = upload_as(frequencies, {half});
    const DeviceTensor cos = poisoned(DType::f32, {rows, half});
    const DeviceTensor sin = poisoned(DType::f32, {rows, half});
    const double scaling = 1.2079441541679836;
    rope_table(dp, df, scaling, cos, sin, stream());
    const std::vector<float> c = download_as<float>(cos), s = download_as<float>(sin);
    int64_t other_bits = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(positions[static_cast<size_t>(r)]) *
                             frequencies[static_cast<size_t>(i)];
        const auto at = static_cast<size_t>(r * half + i);
        const auto wc = static_cast<float>(std::cos(angle) * scaling);
        const auto ws = static_cast<float>(std::sin(angle) * scaling);
        other_bits += (c[at] != wc) + (s[at] != ws);
        ASSERT_TRUE(c[at] == wc || c[at] == std::nextafter(wc, c[at])) << c[at] << " " << wc;
        ASSERT_TRUE(s[at] == ws || s[at] == std::nextafter(ws, s[at])) << s[at] << " " << ws;
      }
    EXPECT_LE(other_bits, rows * half / 10000 + 1);
  }
}

// Enough device memory for a test that needs this much?
bool has_memory(int64_t bytes) {
  size_t free = 0, total = 0;
  LH_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free) > bytes;
}

// `count` elements from `begin` on, as doubles.
std::vector<float> expected(uint64_t key, int64_t begin, int64_t count) {
  std::vector<float> v;
  for (int64_t i = 0; i < count; ++i)
    v.push_back(
        static_cast<float>(bf16(random_value(key, static_cast<uint64_t>(begin + i), 0, 1))));
  return v;
}

TEST_F(GpuOps, TensorsPastTwoToThe31) {
  const int64_t n = 2048, rows = (int64_t{1} << 31) / n + 1002;
  if (!has_memory(int64_t{20} << 30)) GTEST_SKIP() << "needs 20 GiB of device memory";
  const DeviceTensor x = poisoned(DType::bf16, {rows, n}), y = poisoned(DType::bf16, {rows, n});
  const DeviceTensor out = poisoned(DType::bf16, {rows, n});
  const DeviceTensor weight = upload(std::vector<double>(n, 1), DType::bf16, {n});
  fill_random(x, 1, 0, 1, stream());
  fill_random(y, 2, 0, 1, stream());
  for (const int64_t row :
       {int64_t{0}, (int64_t{1} << 31) / n - 1, (int64_t{1} << 31) / n, rows - 1}) {
    const std::vector<float> a = expected(1, row * n, n), b = expected(2, row * n, n);
    EXPECT_EQ(download(x.view().row_range(row, 1)), std::vector<double>(a.begin(), a.end()));

    rms_norm(x, weight, 1e-6, out, stream());
    double sum = 0;
    for (const float v : a) sum += static_cast<double>(v) * static_cast<double>(v);
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
    const std::vector<double> normed = download(out.view().row_range(row, 1));
    for (size_t i = 0; i < normed.size(); ++i)
      ASSERT_NEAR(normed[i], static_cast<double>(a[i]) * scale,
                  std::abs(static_cast<double>(a[i])) * scale * 1.01 * kRound16);

    const DeviceTensor index = upload_as(std::vector<int64_t>{row}, {1});
    const DeviceTensor one = poisoned(DType::bf16, {1, n});
    gather_rows(x, index, one, stream());
    EXPECT_EQ(download(one), std::vector<double>(a.begin(), a.end()));

    const TensorView pairs = x.view().reshaped({rows / 2, 2 * n});
    swiglu(pairs, out.view().row_range(0, rows / 2), stream());
    const int64_t pair = std::min(row / 2, rows / 2 - 1);
    const std::vector<float> gate = expected(1, pair * 2 * n, n),
                             up = expected(1, (pair * 2 + 1) * n, n);
    const std::vector<double> product = download(out.view().row_range(pair, 1));
    for (size_t i = 0; i < product.size(); ++i) {
      const double g = static_cast<double>(gate[i]);
      const double want = g / (1 + std::exp(-g)) * static_cast<double>(up[i]);
      ASSERT_NEAR(product[i], want, std::abs(want) * 1.01 * kRound16 + 1e-30);
    }
  }
  add(x, y, stream());
  for (const int64_t row : {(int64_t{1} << 31) / n, rows - 1}) {
    const std::vector<float> a = expected(1, row * n, n), b = expected(2, row * n, n);
    const std::vector<double> sum = download(x.view().row_range(row, 1));
    for (size_t i = 0; i < sum.size(); ++i)
      ASSERT_EQ(sum[i], static_cast<double>(bf16(a[i] + b[i])));
  }
}

}  // namespace
}  // namespace longhaul::test
