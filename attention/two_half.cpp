#include "attention/two_half.h"

#include <limits>

namespace longhaul::attention {
namespace {

int32_t narrow(int64_t value, const char* what) {
  if (value > std::numeric_limits<int32_t>::max())
    fail(ExitCode::usage, "{} {} does not fit the two-call contract's 32 bits; use the single call",
         what, value);
  return static_cast<int32_t>(value);
}

HalfArguments make_half(std::span<const int64_t> cu_seqlens_q, std::span<const int64_t> kv_lens,
                        int64_t max_seqlen_q, int64_t total_q) {
  HalfArguments h;
  for (int64_t c : cu_seqlens_q) h.cu_seqlens_q.push_back(narrow(c, "query offset"));
  for (int64_t n : kv_lens) h.cache_seqlens.push_back(narrow(n, "kv length"));
  h.max_seqlen_q = narrow(max_seqlen_q, "query length");
  h.total_q = total_q;
  return h;
}

}  // namespace

TwoHalfArguments make_two_half_arguments(const layout::ContextParallelMetadata& m) {
  return {make_half(m.cu_seqlens_q_prev, m.kv_len_prev_list, m.max_seqlen_q_prev,
                    m.total_q_prev_tokens),
          make_half(m.cu_seqlens_q_next, m.kv_len_next_list, m.max_seqlen_q_next,
                    m.total_q_next_tokens)};
}

void attend_two_halves(const TwoHalfArguments& a, ConstTensorView q, const AttnFn& attn_fn,
                       TensorView out, TensorView lse) {
  LH_CHECK(q.rows() == a.prev.total_q + a.next.total_q, "{} rows, halves of {} and {}", q.rows(),
           a.prev.total_q, a.next.total_q);
  int64_t begin = 0;
  for (const HalfArguments* h : {&a.prev, &a.next}) {
    if (h->total_q > 0)
      attn_fn(q.row_range(begin, h->total_q), h->cu_seqlens_q, h->cache_seqlens, h->max_seqlen_q,
              out.row_range(begin, h->total_q), lse.row_range(begin, h->total_q));
    begin += h->total_q;
  }
}

void attend_two_halves(const layout::ContextParallelMetadata& metadata, ConstTensorView q,
                       const AttnFn& attn_fn, TensorView out, TensorView lse) {
  attend_two_halves(make_two_half_arguments(metadata), q, attn_fn, out, lse);
}

AttnFn make_attn_fn(Backend& backend, ThreadPool& pool, std::span<const std::vector<KvSegment>> kv,
                    int64_t num_kv_heads, bool causal, double scale,
                    const std::function<void()>* poll) {
  return [=, &backend, &pool](ConstTensorView q, std::span<const int32_t> cu_seqlens_q,
                              std::span<const int32_t> cache_seqlens, int32_t, TensorView out,
                              TensorView lse) {
    std::vector<WorkItem> items;
    for (size_t i = 0; i < cache_seqlens.size(); ++i) {
      const int64_t rows = cu_seqlens_q[i + 1] - cu_seqlens_q[i];
      if (rows == 0) continue;
      items.push_back(
          {static_cast<int>(i), cu_seqlens_q[i], rows, cache_seqlens[i] - rows, cache_seqlens[i]});
    }
    backend.run({q, num_kv_heads, items, kv, causal, scale, out, lse, poll}, pool);
  };
}

}  // namespace longhaul::attention
