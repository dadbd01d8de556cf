#include "apps/bench_samples.h"

#include <algorithm>
#include <cmath>

namespace longhaul::apps {
namespace {

constexpr int64_t kLanes = 8;

// Sum of a[i] * b[i] in T, in lanes that the compiler can put into one register.
template <class A, class B, class S>
S dot(const A* a, const B* b, int64_t n, S) {
  S lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l)
      lanes[l] += static_cast<S>(a[i + l]) * static_cast<S>(static_cast<float>(b[i + l]));
  S sum = 0;
  for (; i < n; ++i) sum += static_cast<S>(a[i]) * static_cast<S>(static_cast<float>(b[i]));
  for (S lane : lanes) sum += lane;
  return sum;
}

template <class T>
double rounded(double value) {
  return static_cast<double>(static_cast<float>(static_cast<T>(static_cast<float>(value))));
}

void compare(double got, double exact, double plain, SampleErrors& e) {
  const double off = std::abs(got - exact);
  e.largest = std::isfinite(off) ? std::max(e.largest, off) : HUGE_VAL;
  e.plain = std::max(e.plain, std::abs(plain - exact));
  e.squares += exact * exact;
  e.count += 1;
}

// Merged in the order of the samples, whatever thread had them.
template <class F>
SampleErrors over_samples(size_t n, ThreadPool& pool, F&& one) {
  std::vector<SampleErrors> each(n);
  pool.parallel_for(static_cast<int64_t>(n), [&](int64_t i, int) {
    each[static_cast<size_t>(i)] = one(static_cast<size_t>(i));
  });
  SampleErrors all;
  for (const SampleErrors& e : each) all.add(e);
  return all;
}

template <class T>
SampleErrors check_one(const AttentionSample& s, ConstTensorView q, ConstTensorView kv,
                       int64_t num_kv_heads, int64_t dim, double scale, ConstTensorView out,
                       ConstTensorView lse) {
  const int64_t heads = q.shape[1], width = kv.shape[1], kv_head = s.head * num_kv_heads / heads;
  const int64_t values = num_kv_heads * dim, dim_v = out.shape[2];
  const T* const query = q.as<T>() + (s.index * heads + s.head) * dim;
  std::vector<float> wide(static_cast<size_t>(dim));
  for (int64_t d = 0; d < dim; ++d) wide[static_cast<size_t>(d)] = static_cast<float>(query[d]);
  const T* const first = kv.as<T>() + s.key_row * width;
  std::vector<double> scores(static_cast<size_t>(s.visible));
  double most = -HUGE_VAL;
  for (int64_t j = 0; j < s.visible; ++j) {
    const double score = scale * dot(wide.data(), first + j * width + kv_head * dim, dim, double{});
    scores[static_cast<size_t>(j)] = score;
    most = std::max(most, score);
  }
  std::vector<double> exact(static_cast<size_t>(dim_v));
  std::vector<float> plain(static_cast<size_t>(dim_v));
  double sum = 0;
  float plain_sum = 0;
  for (int64_t j = 0; j < s.visible; ++j) {
    const double weight = std::exp(scores[static_cast<size_t>(j)] - most);
    sum += weight;
    plain_sum += static_cast<float>(weight);
    const auto narrow = static_cast<float>(rounded<T>(weight));
    const T* const value = first + j * width + values + kv_head * dim_v;
    for (int64_t d = 0; d < dim_v; ++d) {
      const auto v = static_cast<float>(value[d]);
      exact[static_cast<size_t>(d)] += weight * static_cast<double>(v);
      plain[static_cast<size_t>(d)] += narrow * v;
    }
  }
  SampleErrors e;
  const T* const result = out.as<T>() + (s.index * heads + s.head) * dim_v;
  for (int64_t d = 0; d < dim_v; ++d) {
    const auto i = static_cast<size_t>(d);
    compare(static_cast<double>(static_cast<float>(result[d])), exact[i] / sum,
            rounded<T>(static_cast<double>(plain[i] / plain_sum)), e);
  }
  const double off = std::abs(static_cast<double>(lse.as<float>()[s.index * heads + s.head]) -
                              most - std::log(sum));
  e.lse_largest = std::isfinite(off) ? off : HUGE_VAL;
  return e;
}

template <class T>
SampleErrors check_one(const ExpertSample& s, const std::vector<int64_t>& columns, int64_t hidden,
                       int64_t intermediate) {
  const auto n = static_cast<size_t>(intermediate);
  std::vector<float> x(static_cast<size_t>(hidden));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<const T*>(s.x)[i]);
  std::vector<double> exact(columns.size()), plain(columns.size());
  std::vector<double> act(n), narrow(n);
  for (size_t k = 0; k < s.weights.size(); ++k) {
    const T* const rows = static_cast<const T*>(s.gate_up[k]);
    for (size_t i = 0; i < n; ++i) {
      const T* const row = rows + static_cast<int64_t>(i) * hidden;
      const double gate = dot(x.data(), row, hidden, double{});
      const double up = dot(x.data(), row + intermediate * hidden, hidden, double{});
      act[i] = gate / (1 + std::exp(-gate)) * up;
      narrow[i] = rounded<T>(act[i]);
    }
    for (size_t c = 0; c < columns.size(); ++c) {
      const T* const row = static_cast<const T*>(s.down[k]) + columns[c] * intermediate;
      const auto weight = static_cast<double>(s.weights[k]);
      exact[c] += weight * dot(act.data(), row, intermediate, double{});
      plain[c] += weight * rounded<T>(dot(narrow.data(), row, intermediate, double{}));
    }
  }
  SampleErrors e;
  for (size_t c = 0; c < columns.size(); ++c)
    compare(static_cast<double>(static_cast<float>(static_cast<const T*>(s.out)[columns[c]])),
            exact[c], rounded<T>(plain[c]), e);
  return e;
}

template <class F>
SampleErrors dispatch_storage(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(bf16{});
  LH_CHECK(dtype == DType::f32, "samples of {}", dtype_name(dtype));
  return f(float{});
}

}  // namespace

double SampleErrors::rms() const {
  return count > 0 && squares > 0 ? std::sqrt(squares / count) : 1;
}

double SampleErrors::bound(double least) const {
  return std::max(2 * plain / rms(), least);
}

void SampleErrors::add(const SampleErrors& o) {
  largest = std::max(largest, o.largest);
  plain = std::max(plain, o.plain);
  lse_largest = std::max(lse_largest, o.lse_largest);
  squares += o.squares;
  count += o.count;
}

std::string verdict(double error, double bound) {
  const bool good = error <= bound;
  return fmt::format("{:.1e} {} {:.1e} {}", error, good ? "<=" : ">", bound, good ? "ok" : "WRONG");
}

SampleErrors check_attention(const std::vector<AttentionSample>& samples, ConstTensorView q,
                             ConstTensorView kv, int64_t num_kv_heads, int64_t head_dim,
                             double scale, ConstTensorView out, ConstTensorView lse,
                             ThreadPool& pool) {
  return dispatch_storage(q.dtype, [&](auto t) {
    return over_samples(samples.size(), pool, [&](size_t i) {
      return check_one<decltype(t)>(samples[i], q, kv, num_kv_heads, head_dim, scale, out, lse);
    });
  });
}

SampleErrors check_experts(const std::vector<ExpertSample>& samples,
                           const std::vector<int64_t>& columns, DType dtype, int64_t hidden,
                           int64_t intermediate, ThreadPool& pool) {
  return dispatch_storage(dtype, [&](auto t) {
    return over_samples(samples.size(), pool, [&](size_t i) {
      return check_one<decltype(t)>(samples[i], columns, hidden, intermediate);
    });
  });
}

}  // namespace longhaul::apps
