#include "attention/backends/cpu_softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/backends/cpu_softmax.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace longhaul::attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;
using Half = hn::Rebind<uint16_t, F>;
using V = hn::Vec<F>;

// Four vectors are worked on at once, to hide the latency of the polynomial.
constexpr int kUnroll = 4;

// 2^x for x <= 0, NaN kept. Below 2^-126 it gives 2^-126 or 0, which no sum tells apart: the
// largest p is 1. x = n + r with |r| <= 1/2, and 2^r by a polynomial fitted for the least relative
// error: degree 4 2.9e-6 (far below bf16's 2^-9), degree 6 7.9e-8 (float32's own rounding),
// rounding counted.
template <int kDegree>
HWY_INLINE V Exp2(F f, V x) {
#if HWY_TARGET > HWY_AVX3               // a smaller number is a wider instruction set
  x = hn::Max(hn::Set(f, -126.0f), x);  // x86 returns the second operand where one is NaN
#endif
  const V n = hn::Round(x);
  const V r = hn::Sub(x, n);
  V p;
  if constexpr (kDegree == 6) {
    p = hn::Set(f, 1.535336174e-4f);
    p = hn::MulAdd(p, r, hn::Set(f, 1.339887486e-3f));
    p = hn::MulAdd(p, r, hn::Set(f, 9.618437362e-3f));
    p = hn::MulAdd(p, r, hn::Set(f, 5.550332470e-2f));
    p = hn::MulAdd(p, r, hn::Set(f, 2.402264791e-1f));
    p = hn::MulAdd(p, r, hn::Set(f, 6.931472029e-1f));
  } else {
    p = hn::Set(f, 9.582852588e-3f);
    p = hn::MulAdd(p, r, hn::Set(f, 5.590642848e-2f));
    p = hn::MulAdd(p, r, hn::Set(f, 2.402409865e-1f));
    p = hn::MulAdd(p, r, hn::Set(f, 6.931241929e-1f));
  }
  p = hn::MulAdd(p, r, hn::Set(f, 1.0f));
#if HWY_TARGET <= HWY_AVX3
  return V{_mm512_scalef_ps(p.raw, n.raw)};  // p 2^n in one instruction, 0 far below
#else
  const I i;
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(i, n));
  return hn::BitCast(f, hn::Add(hn::BitCast(i, p), exponent));
#endif
}

// Two vectors of p, side by side. bf16: to nearest, ties (one in 65,536) up: the upper halves after
// one addition, half the work of ties to even. p is not negative, so nothing runs over.
HWY_INLINE void StoreP(F f, V p0, V p1, uint16_t* to) {
  (void)f;
  const U u;
  const auto half = hn::Set(u, 0x8000);
  const auto bits0 = hn::Add(hn::BitCast(u, p0), half);
  const auto bits1 = hn::Add(hn::BitCast(u, p1), half);
#if HWY_TARGET == HWY_SCALAR
  to[0] = static_cast<uint16_t>(hn::GetLane(bits0) >> 16);
  to[1] = static_cast<uint16_t>(hn::GetLane(bits1) >> 16);
#else
  const hn::Repartition<uint16_t, F> d16;
  hn::StoreU(hn::ConcatOdd(d16, hn::BitCast(d16, bits1), hn::BitCast(d16, bits0)), d16, to);
#endif
}
HWY_INLINE void StoreP(F f, V p0, V p1, float* to) {
  hn::StoreU(p0, f, to);
  hn::StoreU(p1, f, to + hn::Lanes(f));
}

HWY_INLINE float RowMax(F f, const float* s, int64_t n) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(f));
  const V lowest = hn::Neg(hn::Inf(f));
  V m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
  int64_t j = 0;
  for (; j + kUnroll * lanes <= n; j += kUnroll * lanes) {
    m0 = hn::Max(m0, hn::LoadU(f, s + j));
    m1 = hn::Max(m1, hn::LoadU(f, s + j + lanes));
    m2 = hn::Max(m2, hn::LoadU(f, s + j + 2 * lanes));
    m3 = hn::Max(m3, hn::LoadU(f, s + j + 3 * lanes));
  }
  for (; j < n; j += lanes) {
    const auto mask = hn::FirstN(f, static_cast<size_t>(n - j));
    m0 = hn::Max(m0, hn::IfThenElse(mask, hn::LoadU(f, s + j), lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(f, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3))));
}

// p over the first n columns, 0 over the rest; returns the sum of p before rounding.
template <int kDegree, class P>
HWY_INLINE float RowExp(F f, const float* s, int64_t n, int64_t columns, float scale, float top,
                        P* to) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(f));
  const V scales = hn::Set(f, scale);
  const V tops = hn::Set(f, top);
  V sum0 = hn::Zero(f), sum1 = hn::Zero(f), sum2 = hn::Zero(f), sum3 = hn::Zero(f);
  int64_t j = 0;
  for (; j + kUnroll * lanes <= n; j += kUnroll * lanes) {
    const V x0 = hn::MulSub(hn::LoadU(f, s + j), scales, tops);
    const V x1 = hn::MulSub(hn::LoadU(f, s + j + lanes), scales, tops);
    const V x2 = hn::MulSub(hn::LoadU(f, s + j + 2 * lanes), scales, tops);
    const V x3 = hn::MulSub(hn::LoadU(f, s + j + 3 * lanes), scales, tops);
    const V p0 = Exp2<kDegree>(f, x0);
    const V p1 = Exp2<kDegree>(f, x1);
    const V p2 = Exp2<kDegree>(f, x2);
    const V p3 = Exp2<kDegree>(f, x3);
    sum0 = hn::Add(sum0, p0);
    sum1 = hn::Add(sum1, p1);
    sum2 = hn::Add(sum2, p2);
    sum3 = hn::Add(sum3, p3);
    StoreP(f, p0, p1, to + j);
    StoreP(f, p2, p3, to + j + 2 * lanes);
  }
  for (; j < n; j += 2 * lanes) {
    const auto mask0 = hn::FirstN(f, static_cast<size_t>(n - j));
    const auto mask1 = hn::FirstN(f, static_cast<size_t>(n - j > lanes ? n - j - lanes : 0));
    const V x0 = hn::MulSub(hn::LoadU(f, s + j), scales, tops);
    const V x1 = hn::MulSub(hn::LoadU(f, s + j + lanes), scales, tops);
    const V p0 = hn::IfThenElseZero(mask0, Exp2<kDegree>(f, x0));
    const V p1 = hn::IfThenElseZero(mask1, Exp2<kDegree>(f, x1));
    sum0 = hn::Add(sum0, p0);
    sum1 = hn::Add(sum1, p1);
    StoreP(f, p0, p1, to + j);
  }
  for (; j < columns; j += 2 * lanes) StoreP(f, hn::Zero(f), hn::Zero(f), to + j);
  return hn::GetLane(hn::SumOfLanes(f, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

void ScaleTo(const float* values, float factor, int64_t n, float* out) {
  const F f;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f));
  const V factors = hn::Set(f, factor);
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes)
    hn::StoreU(hn::Mul(hn::LoadU(f, values + j), factors), f, out + j);
  for (; j < n; ++j) out[j] = values[j] * factor;
}

template <int kDegree, class P>
HWY_INLINE void SoftmaxRows(const SoftmaxTile& t) {
  const F f;
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* s = t.scores + r * t.columns;
    P* to = static_cast<P*>(t.p) + r * t.columns;
    const int64_t n = t.visible[r / t.group];
    const float old = t.top[r];
    float top = old;
    if (n > 0) {
      const float highest = RowMax(f, s, n) * t.scale_log2;
      top = highest > old ? highest : old;
    }
    const float sum = RowExp<kDegree>(f, s, n, t.columns, t.scale_log2, top, to);
    if (top != old && t.sum[r] != 0) {
      const float fall = hn::GetLane(Exp2<6>(f, hn::Set(f, old - top)));
      t.sum[r] = t.sum[r] * fall + sum;
      ScaleTo(t.out + r * t.dim_v, fall, t.dim_v, t.out + r * t.dim_v);
    } else {
      t.sum[r] += sum;
    }
    t.top[r] = top;
  }
}

void SoftmaxF32(const SoftmaxTile& t) {
  SoftmaxRows<6, float>(t);
}
void SoftmaxBf16(const SoftmaxTile& t) {
  SoftmaxRows<4, uint16_t>(t);
}

void Widen(const uint16_t* values, int64_t n, float* out) {
  const F f;
  const U u;
  const auto lanes = static_cast<int64_t>(hn::Lanes(f));
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    const auto bits = hn::PromoteTo(u, hn::LoadU(Half(), values + j));
    hn::StoreU(hn::BitCast(f, hn::ShiftLeft<16>(bits)), f, out + j);
  }
  for (; j < n; ++j) {
    bf16 v;
    v.bits = values[j];
    out[j] = static_cast<float>(v);
  }
}

template <class T>
bool AnyWithExponent(const T* bits, int64_t n, T exponent) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto mask = hn::Set(d, exponent);
  auto found = hn::MaskFromVec(hn::Zero(d));
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes)
    found = hn::Or(found, hn::Eq(hn::And(hn::LoadU(d, bits + j), mask), mask));
  bool any = !hn::AllFalse(d, found);
  for (; j < n; ++j) any |= (bits[j] & exponent) == exponent;
  return any;
}
bool AnyNonfiniteF32(const uint32_t* bits, int64_t n) {
  return AnyWithExponent<uint32_t>(bits, n, 0x7f800000u);
}
bool AnyNonfiniteBf16(const uint16_t* bits, int64_t n) {
  return AnyWithExponent<uint16_t>(bits, n, 0x7f80u);
}
const char* TargetName() {
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace longhaul::attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longhaul::attention::cpu {

HWY_EXPORT(SoftmaxF32);
HWY_EXPORT(SoftmaxBf16);
HWY_EXPORT(ScaleTo);
HWY_EXPORT(Widen);
HWY_EXPORT(AnyNonfiniteF32);
HWY_EXPORT(AnyNonfiniteBf16);
HWY_EXPORT(TargetName);

void softmax_f32(const SoftmaxTile& tile) {
  HWY_DYNAMIC_DISPATCH(SoftmaxF32)(tile);
}
void softmax_bf16(const SoftmaxTile& tile) {
  HWY_DYNAMIC_DISPATCH(SoftmaxBf16)(tile);
}
void scale_to(const float* values, float factor, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ScaleTo)(values, factor, n, out);
}
void widen(const bf16* values, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(Widen)(reinterpret_cast<const uint16_t*>(values), n, out);
}
bool any_nonfinite(const float* values, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(AnyNonfiniteF32)(reinterpret_cast<const uint32_t*>(values), n);
}
bool any_nonfinite(const bf16* values, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(AnyNonfiniteBf16)(reinterpret_cast<const uint16_t*>(values), n);
}
const char* softmax_target_name() {
  return HWY_DYNAMIC_DISPATCH(TargetName)();
}

}  // namespace longhaul::attention::cpu
#endif
