#include "runtime/ops/kernels.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

// The ones left out differ from their neighbours in nothing that these loops use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/ops/kernels.cpp"
#include <hwy/foreach_target.h>
// clang-format off: highway.h must come after foreach_target.h
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longhaul::ops::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using D16 = hn::Rebind<uint16_t, DF>;

// Loads and stores of `count` elements, at most one vector; lanes past them are zero.
HWY_INLINE VF load(const float* p, size_t count) {
  const DF d;
  if (HWY_LIKELY(count >= hn::Lanes(d))) return hn::LoadU(d, p);
  HWY_ALIGN float lanes[hn::MaxLanes(d)] = {};
  std::memcpy(lanes, p, count * sizeof(float));
  return hn::Load(d, lanes);
}

HWY_INLINE void store(VF v, float* p, size_t count) {
  const DF d;
  if (HWY_LIKELY(count >= hn::Lanes(d))) return hn::StoreU(v, d, p);
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, count * sizeof(float));
}

HWY_INLINE VF load(const bf16* p, size_t count) {
  const D16 d;
  HWY_ALIGN uint16_t lanes[hn::MaxLanes(d)] = {};
  const bool whole = count >= hn::Lanes(d);
  if (HWY_UNLIKELY(!whole)) std::memcpy(lanes, p, count * sizeof(bf16));
  const auto bits = whole ? hn::LoadU(d, reinterpret_cast<const uint16_t*>(p)) : hn::Load(d, lanes);
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
}

// Rounds to nearest even and keeps NaN, as bf16's constructor does.
HWY_INLINE void store(VF v, bf16* p, size_t count) {
  const DU du;
  const D16 d;
  const auto u = hn::BitCast(du, v);
  const auto lowest_kept_bit = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(u, hn::Add(lowest_kept_bit, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(u, hn::Set(du, 0x400000u));
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto upper = hn::ShiftRight<16>(hn::IfThenElse(nan, quiet, rounded));
  const auto bits = hn::DemoteTo(d, hn::BitCast(DI(), upper));  // never negative: nothing saturates
  if (HWY_LIKELY(count >= hn::Lanes(d))) return hn::StoreU(bits, d, reinterpret_cast<uint16_t*>(p));
  HWY_ALIGN uint16_t lanes[hn::MaxLanes(d)];
  hn::Store(bits, d, lanes);
  std::memcpy(p, lanes, count * sizeof(bf16));
}

HWY_INLINE int64_t vector_size() {
  return static_cast<int64_t>(hn::Lanes(DF()));
}
HWY_INLINE size_t count_at(int64_t i, int64_t n) {
  return static_cast<size_t>(n - i);
}

template <class From, class To>
void convert_all(const From* in, To* out, int64_t n) {
  for (int64_t i = 0; i < n; i += vector_size())
    store(load(in + i, count_at(i, n)), out + i, count_at(i, n));
}

template <class T>
float sum_of_squares(const T* x, int64_t n) {
  const DF d;
  const int64_t step = vector_size();
  VF s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    const size_t whole = hn::Lanes(d);
    const VF a = load(x + i, whole), b = load(x + i + step, whole);
    const VF c = load(x + i + 2 * step, whole), e = load(x + i + 3 * step, whole);
    s0 = hn::MulAdd(a, a, s0);
    s1 = hn::MulAdd(b, b, s1);
    s2 = hn::MulAdd(c, c, s2);
    s3 = hn::MulAdd(e, e, s3);
  }
  for (; i < n; i += step) {
    const VF a = load(x + i, count_at(i, n));
    s0 = hn::MulAdd(a, a, s0);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

template <class T>
void rms_norm_rows(const T* x, const T* weight, double eps, T* out, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    const double mean = static_cast<double>(sum_of_squares(x, n)) / static_cast<double>(n);
    const VF scale = hn::Set(DF(), static_cast<float>(1.0 / std::sqrt(mean + eps)));
    for (int64_t i = 0; i < n; i += vector_size()) {
      const size_t count = count_at(i, n);
      store(hn::Mul(hn::Mul(load(x + i, count), scale), load(weight + i, count)), out + i, count);
    }
  }
}

template <class T>
void add_all(T* x, const T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += vector_size()) {
    const size_t count = count_at(i, n);
    store(hn::Add(load(x + i, count), load(y + i, count)), x + i, count);
  }
}

template <class T>
void swiglu_rows(const T* gate_up, T* out, int64_t rows, int64_t n) {
  const DF d;
  const VF one = hn::Set(d, 1.0f);
  for (int64_t r = 0; r < rows; ++r, gate_up += 2 * n, out += n) {
    for (int64_t i = 0; i < n; i += vector_size()) {
      const size_t count = count_at(i, n);
      const VF gate = load(gate_up + i, count);
      const VF up = load(gate_up + n + i, count);
      // sigmoid through exp(-|gate|), which can neither overflow nor lose a negative gate's digits.
      const VF e = hn::Exp(d, hn::Neg(hn::Abs(gate)));
      const VF sigmoid =
          hn::Div(hn::IfThenElse(hn::Ge(gate, hn::Zero(d)), one, e), hn::Add(one, e));
      store(hn::Mul(hn::Mul(gate, sigmoid), up), out + i, count);
    }
  }
}

template <class T>
void rotate_heads(const float* cos, const float* sin, T* x, int64_t heads, int64_t half) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * half) {
    for (int64_t i = 0; i < half; i += vector_size()) {
      const size_t count = count_at(i, half);
      const VF c = load(cos + i, count), s = load(sin + i, count);
      const VF a = load(x + i, count), b = load(x + half + i, count);
      store(hn::NegMulAdd(b, s, hn::Mul(a, c)), x + i, count);
      store(hn::MulAdd(a, s, hn::Mul(b, c)), x + half + i, count);
    }
  }
}

void Widen(const bf16* in, float* out, int64_t n) {
  convert_all(in, out, n);
}
void Narrow(const float* in, bf16* out, int64_t n) {
  convert_all(in, out, n);
}
void RmsNorm32(const float* x, const float* w, double eps, float* out, int64_t rows, int64_t n) {
  rms_norm_rows(x, w, eps, out, rows, n);
}
void RmsNorm16(const bf16* x, const bf16* w, double eps, bf16* out, int64_t rows, int64_t n) {
  rms_norm_rows(x, w, eps, out, rows, n);
}
void Add32(float* x, const float* y, int64_t n) {
  add_all(x, y, n);
}
void Add16(bf16* x, const bf16* y, int64_t n) {
  add_all(x, y, n);
}
void Swiglu32(const float* in, float* out, int64_t rows, int64_t n) {
  swiglu_rows(in, out, rows, n);
}
void Swiglu16(const bf16* in, bf16* out, int64_t rows, int64_t n) {
  swiglu_rows(in, out, rows, n);
}
void Rotate32(const float* cos, const float* sin, float* x, int64_t heads, int64_t half) {
  rotate_heads(cos, sin, x, heads, half);
}
void Rotate16(const float* cos, const float* sin, bf16* x, int64_t heads, int64_t half) {
  rotate_heads(cos, sin, x, heads, half);
}

// Twelve chains hide the latency of any current core's multiply-add units and fit 16 registers.
float MultiplyAddLoop(int64_t steps, float start) {
  const DF d;
  const VF a = hn::Set(d, 0.999f), b = hn::Set(d, 0.001f);
  // Different starts: equal chains would be merged by the compiler.
  VF v0 = hn::Iota(d, start), v1 = hn::Add(v0, b), v2 = hn::Add(v1, b), v3 = hn::Add(v2, b);
  VF v4 = hn::Add(v3, b), v5 = hn::Add(v4, b), v6 = hn::Add(v5, b), v7 = hn::Add(v6, b);
  VF v8 = hn::Add(v7, b), v9 = hn::Add(v8, b), v10 = hn::Add(v9, b), v11 = hn::Add(v10, b);
  for (int64_t i = 0; i < steps; ++i) {
    v0 = hn::MulAdd(v0, a, b);
    v1 = hn::MulAdd(v1, a, b);
    v2 = hn::MulAdd(v2, a, b);
    v3 = hn::MulAdd(v3, a, b);
    v4 = hn::MulAdd(v4, a, b);
    v5 = hn::MulAdd(v5, a, b);
    v6 = hn::MulAdd(v6, a, b);
    v7 = hn::MulAdd(v7, a, b);
    v8 = hn::MulAdd(v8, a, b);
    v9 = hn::MulAdd(v9, a, b);
    v10 = hn::MulAdd(v10, a, b);
    v11 = hn::MulAdd(v11, a, b);
  }
  const VF s =
      hn::Add(hn::Add(hn::Add(v0, v1), hn::Add(v2, v3)), hn::Add(hn::Add(v4, v5), hn::Add(v6, v7)));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(s, hn::Add(hn::Add(v8, v9), hn::Add(v10, v11)))));
}

int64_t VectorSize() {
  return vector_size();
}
const char* TargetName() {
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace HWY_NAMESPACE
}  // namespace longhaul::ops::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longhaul::ops::kernels {

HWY_EXPORT(Widen);
HWY_EXPORT(Narrow);
HWY_EXPORT(RmsNorm32);
HWY_EXPORT(RmsNorm16);
HWY_EXPORT(Add32);
HWY_EXPORT(Add16);
HWY_EXPORT(Swiglu32);
HWY_EXPORT(Swiglu16);
HWY_EXPORT(Rotate32);
HWY_EXPORT(Rotate16);
HWY_EXPORT(MultiplyAddLoop);
HWY_EXPORT(VectorSize);
HWY_EXPORT(TargetName);

void widen(const bf16* in, float* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Widen)(in, out, n);
}
void narrow(const float* in, bf16* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Narrow)(in, out, n);
}

void rms_norm(const float* x, const float* w, double eps, float* out, int64_t rows, int64_t n) {
  HWY_DYNAMIC_DISPATCH(RmsNorm32)(x, w, eps, out, rows, n);
}
void rms_norm(const bf16* x, const bf16* w, double eps, bf16* out, int64_t rows, int64_t n) {
  HWY_DYNAMIC_DISPATCH(RmsNorm16)(x, w, eps, out, rows, n);
}
void rms_norm(const double* x, const double* w, double eps, double* out, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * w[i];
  }
}

void add(float* x, const float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Add32)(x, y, n);
}
void add(bf16* x, const bf16* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Add16)(x, y, n);
}
void add(double* x, const double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void swiglu(const float* in, float* out, int64_t rows, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Swiglu32)(in, out, rows, n);
}
void swiglu(const bf16* in, bf16* out, int64_t rows, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Swiglu16)(in, out, rows, n);
}
void swiglu(const double* in, double* out, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, in += 2 * n, out += n)
    for (int64_t i = 0; i < n; ++i) {
      const double gate = in[i], e = std::exp(-std::abs(gate));
      out[i] = gate * ((gate >= 0 ? 1.0 : e) / (1.0 + e)) * in[n + i];
    }
}

void rotate(const float* cos, const float* sin, float* x, int64_t heads, int64_t half) {
  HWY_DYNAMIC_DISPATCH(Rotate32)(cos, sin, x, heads, half);
}
void rotate(const float* cos, const float* sin, bf16* x, int64_t heads, int64_t half) {
  HWY_DYNAMIC_DISPATCH(Rotate16)(cos, sin, x, heads, half);
}
void rotate(const double* cos, const double* sin, double* x, int64_t heads, int64_t half) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * half)
    for (int64_t i = 0; i < half; ++i) {
      const double a = x[i], b = x[half + i];
      x[i] = a * cos[i] - b * sin[i];
      x[half + i] = b * cos[i] + a * sin[i];
    }
}

double multiply_add_rate(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSteps = 100000;  // some 150 microseconds: shorter than a time slice
  const double flops_a_round =
      2.0 * 12 * kSteps * static_cast<double>(HWY_DYNAMIC_DISPATCH(VectorSize)());
  volatile float sink = 1.0f;
  const auto begin = Clock::now();
  double best = 0, elapsed = 0;
  do {
    const auto start = Clock::now();
    sink = HWY_DYNAMIC_DISPATCH(MultiplyAddLoop)(kSteps, sink);
    const auto end = Clock::now();
    best = std::max(best, flops_a_round / std::chrono::duration<double>(end - start).count());
    elapsed = std::chrono::duration<double>(end - begin).count();
  } while (elapsed < seconds);
  return best;
}

const char* target_name() {
  return HWY_DYNAMIC_DISPATCH(TargetName)();
}

}  // namespace longhaul::ops::kernels
#endif
