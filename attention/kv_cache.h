#pragma once
// Paged KV cache of one rank: it holds the KV of the tokens this rank owns, nobody else's.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/backend.h"
#include "runtime/core/tensor.h"
#include "runtime/layout/kv_ownership.h"

namespace longhaul::attention {

struct KvCacheShape {
  int num_layers = 0;
  int num_sequences = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;
  int64_t page_size = 64;  // tokens
  DType dtype = DType::f32;
};

// Pages are allocated as tokens arrive; slot s of a sequence is token s % page_size of its page
// s / page_size. Consecutive pages of a sequence need not be neighbours in memory, but the pages
// that one reserve() adds are, in every layer: a long prompt gives one long segment. Memory is
// accounted as MemoryUse::kv_cache, by whole pages.
// Different layers or sequences may be written from different threads at once.
class PagedKvCache {
 public:
  explicit PagedKvCache(const KvCacheShape& shape);
  ~PagedKvCache();
  PagedKvCache(const PagedKvCache&) = delete;
  PagedKvCache& operator=(const PagedKvCache&) = delete;

  const KvCacheShape& shape() const { return shape_; }

  // Makes room for `count` more tokens of a sequence in every layer, on top of what earlier calls
  // asked for. Nothing stored moves: views of old pages stay valid.
  void reserve(int sequence, int64_t count);
  // The same, said in total: afterwards slots [0, num_tokens) exist. Fewer than before is no
  // change.
  void reserve_total(int sequence, int64_t num_tokens);
  int64_t num_reserved(int sequence) const;  // tokens asked for so far (pages may hold more)
  // Stores k, v [length, num_kv_heads, head_dim(_v)] (cache dtype) at slots [slot, slot + length).
  void write(int layer, int sequence, int64_t slot, ConstTensorView k, ConstTensorView v);
  // The stored tokens of the runs as segments, one or more a run (a segment never crosses memory
  // that is not contiguous). Positions come from the runs.
  void append_segments(int layer, int sequence, std::span<const layout::KvRun> runs,
                       std::vector<KvSegment>& out) const;
  // Copies slots [slot, slot + length) to packed rows k_out [length, Hk, D], v_out [length, Hk,
  // Dv].
  void read(int layer, int sequence, int64_t slot, int64_t length, void* k_out, void* v_out) const;

  int64_t num_bytes() const;  // allocated pages, all layers

 private:
  KvCacheShape shape_;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::attention
