#pragma once
// The contract that a simple vendor kernel fulfils: variable-length attention of one half of the
// batch, bottom-right causal, called twice. Everything else (KV cache, page table, head counts,
// scale) is captured in the function.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "attention/backend.h"
#include "runtime/layout/context_parallel_metadata.h"

namespace longhaul::attention {

// q [total_q, num_heads, head_dim]: the rows of one half, sequence after sequence;
// cu_seqlens_q [bs + 1]; cache_seqlens [bs]: keys [0, cache_seqlens[i]) of sequence i are attended,
// the last query sees the last of them (bottom-right causal); max_seqlen_q: the longest of the
// half. out [total_q, num_heads, head_dim_v] and lse [total_q, num_heads] in the accumulator type.
// A query that sees no key gets out 0 and lse -inf.
using AttnFn = std::function<void(ConstTensorView q, std::span<const int32_t> cu_seqlens_q,
                                  std::span<const int32_t> cache_seqlens, int32_t max_seqlen_q,
                                  TensorView out, TensorView lse)>;

// The arguments of the two calls, built once a layout and rank, never a layer: each half has its
// own, for what a vendor derives from them (scheduler metadata) is valid for that half only.
struct HalfArguments {
  std::vector<int32_t> cu_seqlens_q;   // [bs + 1]
  std::vector<int32_t> cache_seqlens;  // [bs]
  int32_t max_seqlen_q = 0;
  int64_t total_q = 0;
};
struct TwoHalfArguments {
  HalfArguments prev, next;
};
// Throws Error(usage) where a length does not fit the contract's int32_t.
TwoHalfArguments make_two_half_arguments(const layout::ContextParallelMetadata& metadata);

// Splits the local rows at the number of prev rows (never at the midpoint: the halves differ) and
// calls attn_fn for prev, then for next; a half without rows is not called. Row counts must be
// prev.total_q + next.total_q.
void attend_two_halves(const TwoHalfArguments& arguments, ConstTensorView q, const AttnFn& attn_fn,
                       TensorView out, TensorView lse);
void attend_two_halves(const layout::ContextParallelMetadata& metadata, ConstTensorView q,
                       const AttnFn& attn_fn, TensorView out, TensorView lse);

// A Backend in the vendor's shape: kv[i] are the keys of sequence i, any subset of them. Borrows
// everything; the segments must stay valid until the last call.
AttnFn make_attn_fn(Backend& backend, ThreadPool& pool, std::span<const std::vector<KvSegment>> kv,
                    int64_t num_kv_heads, bool causal, double scale,
                    const std::function<void()>* poll = nullptr);

}  // namespace longhaul::attention
