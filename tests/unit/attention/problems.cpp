#include "tests/unit/attention/problems.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace longhaul::attention::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

double load(const void* data, DType dtype, int64_t i) {
  return dispatch_float(
      dtype, [&](auto t) { return static_cast<double>(static_cast<const decltype(t)*>(data)[i]); });
}

}  // namespace

double normal(Rng& rng) {
  static thread_local std::normal_distribution<double> distribution;
  return distribution(rng);
}

double get(ConstTensorView t, int64_t i) {
  return load(t.data, t.dtype, i);
}

void set(TensorView t, int64_t i, double value) {
  dispatch_float(t.dtype, [&](auto x) {
    using T = decltype(x);
    if constexpr (std::is_same_v<T, bf16>)
      static_cast<T*>(t.data)[i] = bf16(static_cast<float>(value));
    else
      static_cast<T*>(t.data)[i] = static_cast<T>(value);
  });
}

void fill_normal(TensorView t, Rng& rng, double deviation) {
  for (int64_t i = 0; i < t.num_elements(); ++i) set(t, i, deviation * normal(rng));
}

void fill(TensorView t, double value) {
  for (int64_t i = 0; i < t.num_elements(); ++i) set(t, i, value);
}

std::vector<Key> Problem::keys(int sequence) const {
  std::vector<Key> all;
  const int64_t size = dtype_size(dtype);
  for (const KvSegment& s : kv[static_cast<size_t>(sequence)])
    for (int64_t i = 0; i < s.length; ++i)
      all.push_back({s.position + i, static_cast<const std::byte*>(s.k) + i * s.k_stride * size,
                     static_cast<const std::byte*>(s.v) + i * s.v_stride * size});
  return all;
}

Problem random_problem(DType dtype, Rng& rng, const ProblemRange& range) {
  constexpr int64_t kHeads[][2] = {{8, 8}, {8, 2}, {6, 1}, {5, 5}, {4, 2}, {1, 1}};
  constexpr int64_t kDims[] = {16, 24, 32, 40, 64, 80, 96, 128, 192, 256, 7};
  Problem p;
  p.dtype = dtype;
  const auto& heads = kHeads[uniform(rng, 0, 5)];
  p.heads = heads[0];
  p.kv_heads = heads[1];
  p.dim = kDims[uniform(rng, 0, 10)];
  p.dim_v = uniform(rng, 0, 3) == 0 ? kDims[uniform(rng, 0, 10)] : p.dim;
  p.causal = uniform(rng, 0, 3) != 0;
  p.scale = (uniform(rng, 0, 9) == 0 ? -2 : 1) / std::sqrt(static_cast<double>(p.dim));
  const auto sequences = uniform(rng, 1, range.most_sequences);
  p.kv.resize(static_cast<size_t>(sequences));
  p.rows = uniform(rng, 0, 3);
  for (int s = 0; s < sequences; ++s) {
    const int64_t length = uniform(rng, 1, range.most_keys);
    for (int64_t at = 0; at < length;) {  // cut into segments, some of them missing
      const int64_t n = std::min(length - at, uniform(rng, 1, range.most_keys));
      if (uniform(rng, 0, 4) != 0) {
        const int64_t k_stride = p.kv_heads * p.dim + uniform(rng, 0, 1) * 16;
        const int64_t v_stride = p.kv_heads * p.dim_v + uniform(rng, 0, 1) * 16;
        Tensor k(dtype, {n, k_stride}), v(dtype, {n, v_stride});
        fill(k, kNaN);
        fill(v, kNaN);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t d = 0; d < p.kv_heads * p.dim; ++d) set(k, i * k_stride + d, normal(rng));
          for (int64_t d = 0; d < p.kv_heads * p.dim_v; ++d) set(v, i * v_stride + d, normal(rng));
        }
        p.kv[static_cast<size_t>(s)].push_back({at, n, k.data(), v.data(), k_stride, v_stride});
        p.memory.push_back(std::move(k));
        p.memory.push_back(std::move(v));
      }
      at += n;
    }
    auto& segments = p.kv[static_cast<size_t>(s)];
    std::shuffle(segments.begin(), segments.end(), rng);
    for (int64_t n = uniform(rng, 1, 3); n > 0; --n) {
      const int64_t queries = uniform(rng, 0, range.most_queries);
      const int64_t position = uniform(rng, uniform(rng, 0, 3) == 0 ? -queries : 0, length);
      p.items.push_back(
          {s, p.rows, queries, position,
           p.causal ? std::max<int64_t>(position + queries, 0) : uniform(rng, 0, length + 5)});
      p.rows += queries + uniform(rng, 0, 2);
    }
  }
  p.q = Tensor(dtype, {p.rows, p.heads, p.dim});
  fill_normal(p.q, rng);
  return p;
}

Answer solve(const Problem& p, bool round_p) {
  Answer a;
  a.out.assign(static_cast<size_t>(p.rows * p.heads * p.dim_v), kNaN);
  a.lse.assign(static_cast<size_t>(p.rows * p.heads), kNaN);
  a.covered.assign(static_cast<size_t>(p.rows), false);
  const int64_t group = p.heads / p.kv_heads;
  for (const WorkItem& w : p.items) {
    std::vector<Key> keys = p.keys(w.sequence);
    for (int64_t i = 0; i < w.q_length; ++i) {
      a.covered[static_cast<size_t>(w.q_row + i)] = true;
      for (int64_t h = 0; h < p.heads; ++h) {
        const int64_t row = (w.q_row + i) * p.heads + h;
        std::vector<double> scores;
        std::vector<const Key*> seen;
        for (const Key& key : keys) {
          if (key.position >= w.kv_length) continue;
          if (p.causal && key.position > w.q_position + i) continue;
          double score = 0, size = 0;
          for (int64_t d = 0; d < p.dim; ++d) {
            const double term =
                get(p.q, row * p.dim + d) * load(key.k, p.dtype, h / group * p.dim + d);
            score += term;
            size += std::abs(term);
          }
          scores.push_back(score * p.scale);
          seen.push_back(&key);
          a.most_score = std::max(a.most_score, size * std::abs(p.scale));
        }
        const double top = scores.empty() ? 0 : *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        std::vector<double> out(static_cast<size_t>(p.dim_v), 0.0);
        for (size_t j = 0; j < seen.size(); ++j) {
          double weight = std::exp(scores[j] - top);
          sum += weight;
          if (round_p) weight = static_cast<double>(bf16(static_cast<float>(weight)));
          for (int64_t d = 0; d < p.dim_v; ++d) {
            const double v = load(seen[j]->v, p.dtype, h / group * p.dim_v + d);
            a.most_value = std::max(a.most_value, std::abs(v));
            out[static_cast<size_t>(d)] += weight * v;
          }
        }
        for (int64_t d = 0; d < p.dim_v; ++d)
          a.out[static_cast<size_t>(row * p.dim_v + d)] =
              seen.empty() ? 0 : out[static_cast<size_t>(d)] / sum;
        a.lse[static_cast<size_t>(row)] = seen.empty() ? -kInf : top + std::log(sum);
      }
    }
  }
  return a;
}

Result run(Backend& backend, const Problem& p, ThreadPool& pool) {
  const DType acc = accumulator_dtype(p.dtype);
  Result r{Tensor(acc, {p.rows, p.heads, p.dim_v}), Tensor(acc, {p.rows, p.heads})};
  fill(r.out, kNaN);
  fill(r.lse, kNaN);
  backend.prepare({p.dtype, p.dim, p.dim_v, p.causal, false}, pool.num_threads());
  backend.run({p.q, p.kv_heads, p.items, p.kv, p.causal, p.scale, r.out, r.lse}, pool);
  return r;
}

Difference difference(const Problem& p, const Result& r, const Answer& a) {
  Difference most;
  const auto worse = [](double& most_so_far, double value) {
    if (!(value <= most_so_far)) most_so_far = std::isnan(value) ? kInf : value;
  };
  for (int64_t row = 0; row < p.rows * p.heads; ++row) {
    const double want = a.lse[static_cast<size_t>(row)];
    const double have = get(r.lse, row);
    const bool covered = a.covered[static_cast<size_t>(row / p.heads)];
    if (!covered)
      worse(most.lse, std::isnan(have) ? 0 : kInf);
    else if (want == -kInf)
      worse(most.lse, have == -kInf ? 0 : kInf);
    else
      worse(most.lse, std::abs(have - want));
    for (int64_t d = row * p.dim_v; d < (row + 1) * p.dim_v; ++d) {
      if (!covered)
        worse(most.out, std::isnan(get(r.out, d)) ? 0 : kInf);
      else if (want == -kInf)
        worse(most.out, get(r.out, d) == 0 ? 0 : kInf);
      else
        worse(most.out, std::abs(get(r.out, d) - a.out[static_cast<size_t>(d)]));
    }
  }
  return most;
}

}  // namespace longhaul::attention::testing
