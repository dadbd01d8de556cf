// The two 16-bit floats over all their patterns, and the names and sizes of the element types.
#include "runtime/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace longhaul {
namespace {

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8};

TEST(DType, NamesComeBack) {
  for (const DType dtype : kAll) EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  for (const char* name : {"", "F32", "float32", "f8", "bf16 "}) {
    try {
      parse_dtype(name);
      FAIL() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      EXPECT_NE(std::string(e.what()).find("bf16"), std::string::npos) << "names what is known";
    }
  }
}

TEST(DType, SizesAreThoseOfTheTypes) {
  EXPECT_EQ(dtype_size(dtype_of<double>()), 8);
  EXPECT_EQ(dtype_size(dtype_of<float>()), 4);
  EXPECT_EQ(dtype_size(dtype_of<bf16>()), 2);
  EXPECT_EQ(dtype_size(dtype_of<f16>()), 2);
  EXPECT_EQ(dtype_size(dtype_of<int64_t>()), 8);
  EXPECT_EQ(dtype_size(dtype_of<int32_t>()), 4);
  EXPECT_EQ(dtype_size(dtype_of<uint8_t>()), 1);
}

TEST(DType, AccumulatorsAndDispatch) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    dispatch_float(dtype, [&](auto zero) {
      EXPECT_EQ(dtype_of<decltype(zero)>(), dtype);
      EXPECT_EQ(dtype_of<accumulator_t<decltype(zero)>>(), accumulator_dtype(dtype));
    });
  for (const DType dtype : {DType::f16, DType::i64, DType::i32, DType::u8})
    EXPECT_THROW(dispatch_float(dtype, [](auto) {}), Error);
}

bf16 bf16_of_bits(uint32_t bits) {
  bf16 b;
  b.bits = static_cast<uint16_t>(bits);
  return b;
}

TEST(Bf16, EveryPatternComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float f = static_cast<float>(bf16_of_bits(bits));
    EXPECT_EQ(std::bit_cast<uint32_t>(f), bits << 16);
    EXPECT_EQ(bf16(f).bits, std::isnan(f) ? (bits | 0x40u) : bits);
    if (!std::isnan(f)) {
      EXPECT_EQ(static_cast<double>(bf16_of_bits(bits)), static_cast<double>(f));
    }
  }
}

// Between every two neighbours: just under the middle goes down, the middle to the even one, just
// over it up, of both signs and up to infinity.
TEST(Bf16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint32_t sign : {0u, 0x8000u})
    for (uint32_t bits = 0; bits < 0x7f80u; ++bits) {
      const uint32_t low = (sign | bits) << 16;
      const auto rounded = [&](uint32_t rest) {
        return bf16(std::bit_cast<float>(low | rest)).bits;
      };
      EXPECT_EQ(rounded(0x0001), sign | bits);
      EXPECT_EQ(rounded(0x7fff), sign | bits);
      EXPECT_EQ(rounded(0x8000), sign | (bits + (bits & 1u)));
      EXPECT_EQ(rounded(0x8001), sign | (bits + 1));
      EXPECT_EQ(rounded(0xffff), sign | (bits + 1));
    }
}

TEST(Bf16, NanStaysNanWhateverItsPayload) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const uint32_t bits = (static_cast<uint32_t>(random()) & 0x807fffffu) | 0x7f800000u |
                          (1u << (static_cast<uint32_t>(random()) % 23));
    const float f = std::bit_cast<float>(bits);
    ASSERT_TRUE(std::isnan(f));
    ASSERT_TRUE(std::isnan(static_cast<float>(bf16(f)))) << bits;
    ASSERT_EQ(bf16(f).bits >> 15, bits >> 31);
  }
}

TEST(F16, EveryPatternHasItsValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    f16 h;
    h.bits = static_cast<uint16_t>(bits);
    const auto f = static_cast<float>(h);
    const int exponent = static_cast<int>((bits >> 10) & 31u);
    const int mantissa = static_cast<int>(bits & 1023u);
    EXPECT_EQ(std::signbit(f), (bits & 0x8000u) != 0);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(f), mantissa != 0);
      EXPECT_EQ(std::isinf(f), mantissa == 0);
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      EXPECT_EQ(std::abs(static_cast<double>(f)), magnitude) << bits;
    }
  }
}

}  // namespace
}  // namespace longhaul
