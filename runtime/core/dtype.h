#pragma once
// Element types of tensors and the two 16-bit floats that C++20 lacks.

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace longhaul {

enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u8 };

int64_t dtype_size(DType dtype);           // bytes an element
std::string_view dtype_name(DType dtype);  // "f32", "bf16", ...
DType parse_dtype(std::string_view name);  // throws Error(usage) with the list of names

// bfloat16: the upper half of a float32; rounds to nearest even, keeps NaN.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      u += 0x7fffu + ((u >> 16) & 1u);
      bits = static_cast<uint16_t>(u >> 16);
    }
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(bf16) == 2);

// IEEE half precision; only read from checkpoints.
struct f16 {
  uint16_t bits = 0;
  explicit operator float() const;
};
static_assert(sizeof(f16) == 2);

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::u8;
}

// The type in which sums over T are formed: float for f32 and bf16, double for f64.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

inline DType accumulator_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// Calls f with a value of the floating type that dtype names: dispatch_float(d, [&](auto t) {...}).
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f);

}  // namespace longhaul

#include "runtime/core/check.h"

namespace longhaul {
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    default:
      break;
  }
  LH_CHECK(false, "dtype {} is no compute type", dtype_name(dtype));
  return f(float{});
}
}  // namespace longhaul
