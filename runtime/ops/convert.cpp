#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/ops/elementwise.h"
#include "runtime/ops/kernels.h"

namespace longhaul::ops {
namespace {

// Exact, and without branches so that the compiler vectorises it: the half's exponent and mantissa
// moved to float32's places give the value times 2^-112, subnormals included.
float from_half(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t result = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : finite;
  return std::bit_cast<float>(result | static_cast<uint32_t>(bits & 0x8000u) << 16);
}

// float64 to bf16 through float32 would round twice: rounding the first step to odd keeps what the
// second one needs to know about the lost digits.
bf16 to_bf16(double value) {
  float nearest = static_cast<float>(value);
  const double back = static_cast<double>(nearest);
  if (back != value && std::isfinite(nearest)) {
    uint32_t bits = std::bit_cast<uint32_t>(nearest);
    if (std::abs(back) > std::abs(value)) --bits;  // towards zero
    nearest = std::bit_cast<float>(bits | 1u);
  }
  return bf16(nearest);
}

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<From, f16>) {
    return converted<To>(from_half(value.bits));
  } else if constexpr (std::is_same_v<To, bf16> && std::is_same_v<From, double>) {
    return to_bf16(value);
  } else {
    return static_cast<To>(value);
  }
}

template <class From, class To>
void convert_span(const void* in, void* out, int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    std::memmove(out, in, static_cast<size_t>(n) * sizeof(To));
  } else if constexpr (std::is_same_v<From, bf16> && std::is_same_v<To, float>) {
    kernels::widen(static_cast<const bf16*>(in), static_cast<float*>(out), n);
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bf16>) {
    kernels::narrow(static_cast<const float*>(in), static_cast<bf16*>(out), n);
  } else {
    // Mapped files guarantee no alignment: a block is copied to an aligned place first.
    constexpr int64_t kBlock = 1024;
    From block[kBlock];
    const auto* bytes = static_cast<const std::byte*>(in);
    To* to = static_cast<To*>(out);
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t count = std::min(kBlock, n - i);
      std::memcpy(block, bytes + i * static_cast<int64_t>(sizeof(From)),
                  static_cast<size_t>(count) * sizeof(From));
      for (int64_t j = 0; j < count; ++j) to[i + j] = converted<To>(block[j]);
    }
  }
}

template <class From>
void convert_from(ConstTensorView in, TensorView out) {
  dispatch_float(out.dtype, [&](auto to) {
    convert_span<From, decltype(to)>(in.data, out.data, in.num_elements());
  });
}

}  // namespace

void convert(ConstTensorView in, TensorView out) {
  LH_CHECK(in.shape == out.shape, "{} to {}", in.shape.to_string(), out.shape.to_string());
  if (in.num_elements() == 0) return;
  if (in.dtype == DType::f16) return convert_from<f16>(in, out);
  dispatch_float(in.dtype, [&](auto from) { convert_from<decltype(from)>(in, out); });
}

}  // namespace longhaul::ops
