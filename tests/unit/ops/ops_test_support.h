#pragma once
// Random tensors and double-precision views of them.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/ops/elementwise.h"

namespace longhaul::ops::test {

inline constexpr double kUnit32 = 0x1p-24;   // unit roundoff of float32: half a step at 1
inline constexpr double kUnitBf16 = 0x1p-8;  // of bf16, which has 8 significant bits
inline constexpr double kUnit64 = 0x1p-53;
inline constexpr double kSmallest32 = 0x1p-126;  // the smallest normal float32: kernels may flush

inline double unit_of(DType dtype) {
  return dtype == DType::f64 ? kUnit64 : dtype == DType::f32 ? kUnit32 : kUnitBf16;
}

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Standard normal values, rounded to dtype (f16 too).
inline Tensor random_tensor(Random& random, DType dtype, Shape shape) {
  std::normal_distribution<double> normal;
  Tensor t(dtype, shape);
  if (dtype == DType::f16) {
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      // A sign, an exponent from 2^-6 to 2^1 and a mantissa, put together as bits.
      const auto bits = static_cast<uint32_t>(random());
      t.as<f16>()[i].bits =
          static_cast<uint16_t>((bits & 0x83ffu) | ((9 + (bits >> 16) % 8) << 10));
    }
    return t;
  }
  Tensor exact(DType::f64, shape);
  for (int64_t i = 0; i < t.num_elements(); ++i) exact.as<double>()[i] = normal(random);
  convert(exact, t);
  return t;
}

inline std::vector<double> as_double(ConstTensorView t) {
  std::vector<double> values(static_cast<size_t>(t.num_elements()));
  convert(t, {values.data(), DType::f64, t.shape});
  return values;
}

inline Tensor converted(ConstTensorView t, DType dtype) {
  Tensor result(dtype, t.shape);
  convert(t, result);
  return result;
}

}  // namespace longhaul::ops::test
