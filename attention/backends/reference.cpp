#include "attention/backends/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace longhaul::attention {
namespace {

constexpr int64_t kQueriesPerTask = 16;

// Eight partial sums: still plain loops, but not one long chain of dependent additions.
template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j)
      s[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (; i < n; ++i) s[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

struct Task {
  const WorkItem* item;
  int64_t head;
  int64_t begin, end;  // queries of the item
};

// One query of one head against the keys below `limit`; segments are sorted by position.
template <class T, class Acc>
void attend_row(const AttentionArgs& a, const std::vector<KvSegment>& segments, const T* q,
                int64_t kv_head, int64_t limit, std::vector<double>& scores,
                std::vector<double>& sums, Acc* out, Acc* lse) {
  const int64_t dim = a.q.shape[2];
  const int64_t dim_v = a.out.shape[2];
  scores.clear();
  double top = -std::numeric_limits<double>::infinity();
  for (const KvSegment& s : segments) {
    const T* k = static_cast<const T*>(s.k) + kv_head * dim;
    const int64_t n = std::clamp<int64_t>(limit - s.position, 0, s.length);
    for (int64_t j = 0; j < n; ++j) {
      scores.push_back(a.scale * dot(q, k + j * s.k_stride, dim));
      top = std::max(top, scores.back());
    }
  }
  if (scores.empty()) {
    std::fill_n(out, dim_v, Acc{0});
    *lse = -std::numeric_limits<Acc>::infinity();
    return;
  }
  std::fill(sums.begin(), sums.end(), 0.0);
  double total = 0;
  size_t next = 0;
  for (const KvSegment& s : segments) {
    const T* v = static_cast<const T*>(s.v) + kv_head * dim_v;
    const int64_t n = std::clamp<int64_t>(limit - s.position, 0, s.length);
    for (int64_t j = 0; j < n; ++j) {
      const double p = std::exp(scores[next++] - top);
      total += p;
      const T* row = v + j * s.v_stride;
      for (int64_t d = 0; d < dim_v; ++d)
        sums[static_cast<size_t>(d)] += p * static_cast<double>(row[d]);
    }
  }
  for (int64_t d = 0; d < dim_v; ++d)
    out[d] = static_cast<Acc>(sums[static_cast<size_t>(d)] / total);
  *lse = static_cast<Acc>(top + std::log(total));
}

template <class T>
void run_typed(const AttentionArgs& a, ThreadPool& pool) {
  using Acc = accumulator_t<T>;
  const int64_t heads = a.q.shape[1];
  const int64_t dim = a.q.shape[2];
  const int64_t dim_v = a.out.shape[2];
  const int64_t group = a.num_kv_heads > 0 ? heads / a.num_kv_heads : 1;
  std::vector<std::vector<KvSegment>> kv(a.kv.begin(), a.kv.end());
  for (std::vector<KvSegment>& segments : kv)
    std::sort(segments.begin(), segments.end(),
              [](const KvSegment& x, const KvSegment& y) { return x.position < y.position; });
  std::vector<Task> tasks;
  for (const WorkItem& w : a.items)
    for (int64_t i = 0; i < w.q_length; i += kQueriesPerTask)
      for (int64_t h = 0; h < heads; ++h)
        tasks.push_back({&w, h, i, std::min(i + kQueriesPerTask, w.q_length)});

  const T* q = a.q.as<T>();
  Acc* out = a.out.as<Acc>();
  Acc* lse = a.lse.as<Acc>();
  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index, int thread) {
    if (thread == 0 && a.poll != nullptr) (*a.poll)();
    const Task& t = tasks[static_cast<size_t>(index)];
    std::vector<double> scores, sums(static_cast<size_t>(dim_v));
    for (int64_t i = t.begin; i < t.end; ++i) {
      const int64_t position = t.item->q_position + i;
      const int64_t limit =
          a.causal ? std::min(position + 1, t.item->kv_length) : t.item->kv_length;
      const int64_t row = (t.item->q_row + i) * heads + t.head;
      attend_row<T, Acc>(a, kv[static_cast<size_t>(t.item->sequence)], q + row * dim,
                         t.head / group, limit, scores, sums, out + row * dim_v, lse + row);
    }
  });
}

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  Support supports(const AttentionDesc& desc) const override {
    if (desc.dtype != DType::f64 && desc.dtype != DType::f32 && desc.dtype != DType::bf16)
      return {false, fmt::format("computes f64, f32 and bf16, not {}", dtype_name(desc.dtype))};
    if (desc.head_dim < 1 || desc.head_dim_v < 1)
      return {false,
              fmt::format("head dims {} and {} are not positive", desc.head_dim, desc.head_dim_v)};
    return {true, {}};
  }
  void prepare(const AttentionDesc& desc, int) override {
    const Support s = supports(desc);
    LH_CHECK(s.ok, "{}", s.why_not);
  }
  void run(const AttentionArgs& args, ThreadPool& pool) override {
    check_arguments(args);
    dispatch_float(args.q.dtype, [&](auto t) { run_typed<decltype(t)>(args, pool); });
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() {
  return std::make_unique<ReferenceBackend>();
}

}  // namespace longhaul::attention
