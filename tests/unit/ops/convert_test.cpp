// Element type conversion: every 16-bit pattern, and rounding against neighbours in a wider type.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "tests/unit/ops/ops_test_support.h"

namespace longhaul::ops {
namespace {

using namespace test;

constexpr int64_t kPatterns = 65536;

template <class T>
Tensor all_patterns() {
  Tensor t(dtype_of<T>(), {kPatterns});
  for (int64_t i = 0; i < kPatterns; ++i) t.as<T>()[i].bits = static_cast<uint16_t>(i);
  return t;
}

// Equal as numbers, or both NaN with the same sign.
void expect_same(double a, double b, int64_t pattern) {
  if (std::isnan(b)) {
    EXPECT_TRUE(std::isnan(a) && std::signbit(a) == std::signbit(b)) << pattern;
  } else {
    EXPECT_TRUE(a == b && std::signbit(a) == std::signbit(b)) << pattern << ": " << a << ' ' << b;
  }
}

// The value that a sign, an exponent and a mantissa stand for, from the definition of the format.
double value_of(uint16_t bits, int mantissa_bits, int exponent_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  double v;
  if (exponent == (1 << exponent_bits) - 1)
    v = mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                      : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    v = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  else
    v = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return std::copysign(v, (bits & 0x8000u) != 0 ? -1.0 : 1.0);
}

TEST(Convert, EveryBf16PatternWidensExactlyAndComesBack) {
  const Tensor all = all_patterns<bf16>();
  const Tensor f = converted(all, DType::f32), d = converted(all, DType::f64);
  const Tensor back_f = converted(f, DType::bf16), back_d = converted(d, DType::bf16);
  for (int64_t i = 0; i < kPatterns; ++i) {
    const double value = value_of(static_cast<uint16_t>(i), 7, 8);
    expect_same(static_cast<double>(f.as<float>()[i]), value, i);
    expect_same(d.as<double>()[i], value, i);
    const auto bits = static_cast<uint16_t>(i);
    const auto expected = static_cast<uint16_t>(std::isnan(value) ? bits | 0x40u : bits);
    EXPECT_EQ(back_f.as<bf16>()[i].bits, expected);
    EXPECT_EQ(back_d.as<bf16>()[i].bits, expected);
  }
}

TEST(Convert, EveryF16PatternWidensExactly) {
  const Tensor all = all_patterns<f16>();
  const Tensor f = converted(all, DType::f32), d = converted(all, DType::f64);
  const Tensor b = converted(all, DType::bf16);
  for (int64_t i = 0; i < kPatterns; ++i) {
    const double value = value_of(static_cast<uint16_t>(i), 10, 5);
    expect_same(static_cast<double>(f.as<float>()[i]), value, i);
    expect_same(d.as<double>()[i], value, i);
    EXPECT_EQ(b.as<bf16>()[i].bits, bf16(f.as<float>()[i]).bits) << i;
  }
}

// The nearest of the two bf16 around x, the even one in the middle, found by comparing distances.
uint16_t nearest_bf16(double x) {
  const auto below_bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(x)) >>
                                                16);  // towards zero, or one too far
  const double magnitude = std::abs(x);
  auto at = [](uint32_t bits) {
    // One past the largest finite value stands for 2^128, where rounding to infinity begins.
    return (bits & 0x7fffu) == 0x7f80u
               ? 0x1p128
               : std::abs(static_cast<double>(std::bit_cast<float>((bits & 0x7fffu) << 16)));
  };
  uint32_t low = below_bits;
  if (at(low) > magnitude) --low;  // the float32 was rounded up across a border
  const double under = magnitude - at(low), over = at(low + 1) - magnitude;
  if (under < over) return static_cast<uint16_t>(low);
  if (over < under) return static_cast<uint16_t>(low + 1);
  return static_cast<uint16_t>((low & 1u) == 0 ? low : low + 1);
}

TEST(Convert, RoundsToNearestEven) {
  Random random(1);
  constexpr int64_t n = 400'000;
  Tensor d(DType::f64, {n}), f(DType::f32, {n});
  for (int64_t i = 0; i < n; ++i) {
    // Random finite float32 bits; half of them exactly between two bf16.
    auto bits = static_cast<uint32_t>(random());
    if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0xbfffffffu;
    if (i % 2 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
    f.as<float>()[i] = std::bit_cast<float>(bits);
    // In float64 also a hair above or below, too little for float32 to see.
    const double hair = i % 3 == 0 ? 0 : i % 3 == 1 ? 0x1p-40 : -0x1p-40;
    d.as<double>()[i] = static_cast<double>(f.as<float>()[i]) * (1 + hair);
  }
  const Tensor from_f = converted(f, DType::bf16), from_d = converted(d, DType::bf16);
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(from_f.as<bf16>()[i].bits, nearest_bf16(static_cast<double>(f.as<float>()[i])))
        << f.as<float>()[i];
    ASSERT_EQ(from_d.as<bf16>()[i].bits, nearest_bf16(d.as<double>()[i])) << d.as<double>()[i];
    ASSERT_EQ(bf16(f.as<float>()[i]).bits, from_f.as<bf16>()[i].bits);
  }
}

TEST(Convert, KeepsInfinityAndNan) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  Tensor d(DType::f64, {5});
  const double values[] = {inf, -inf, std::numeric_limits<double>::quiet_NaN(), 1e300, -1e300};
  std::memcpy(d.data(), values, sizeof values);
  for (const DType to : {DType::f32, DType::bf16}) {
    const std::vector<double> v = as_double(converted(d, to));
    EXPECT_EQ(v[0], inf);
    EXPECT_EQ(v[1], -inf);
    EXPECT_TRUE(std::isnan(v[2]));
    EXPECT_EQ(v[3], inf) << "saturates nothing";
    EXPECT_EQ(v[4], -inf);
  }
}

TEST(Convert, AnyLengthAndAddress) {
  Random random(2);
  for (const DType from : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16})
      for (const int64_t n : {0, 1, 3, 15, 16, 17, 31, 100, 1023, 1024, 1025, 3000}) {
        const Tensor in = random_tensor(random, from, {n});
        std::vector<std::byte> odd(static_cast<size_t>(in.num_bytes()) + 1);
        std::memcpy(odd.data() + 1, in.data(), static_cast<size_t>(in.num_bytes()));
        const Tensor expected = converted(in, to);
        Tensor out(to, {n + 1});
        std::memset(out.data(), 0x55, static_cast<size_t>(out.num_bytes()));
        convert({odd.data() + 1, from, {n}}, out.view().row_range(0, n));
        EXPECT_EQ(
            std::memcmp(out.data(), expected.data(), static_cast<size_t>(expected.num_bytes())), 0);
        uint16_t past = 0;
        std::memcpy(&past, static_cast<std::byte*>(out.data()) + expected.num_bytes(), 2);
        EXPECT_EQ(past, 0x5555) << "wrote past the end";
      }
}

TEST(Convert, RefusesOtherTypesAndShapes) {
  Tensor f(DType::f32, {4}), shorter(DType::f32, {3}), ints(DType::i32, {4}), half(DType::f16, {4});
  EXPECT_THROW(convert(f, shorter), Error);
  EXPECT_THROW(convert(f, ints), Error);
  EXPECT_THROW(convert(ints, f), Error);
  EXPECT_THROW(convert(f, half), Error);
}

}  // namespace
}  // namespace longhaul::ops
