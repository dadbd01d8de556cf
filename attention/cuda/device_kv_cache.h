#pragma once
// Paged KV cache of one rank in GPU memory: the KV of the tokens this rank owns, nobody else's.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/slab_pages.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::attention::cuda {

struct DeviceKvCacheShape {
  int num_layers = 0;
  int num_sequences = 0;
  int64_t row_elements = 0;  // of a token and layer: num_kv_heads * (head_dim + head_dim_v)
  int64_t page_size = 64;    // tokens
  DType dtype = DType::bf16;
};

// A token's K (all heads) is followed by its V: one row. A slab is one allocation that holds the
// same pages of every layer; pages that are taken together are neighbours as far as a slab has
// room, so a long prompt is few extents.
class DeviceKvCache {
 public:
  explicit DeviceKvCache(const DeviceKvCacheShape& shape)
      : shape_(shape), pages_(shape.num_sequences, shape.page_size) {}

  const DeviceKvCacheShape& shape() const { return shape_; }
  const SlabPages& pages() const { return pages_; }
  // Room in one slab that later reservations share out.
  void add_slab(int64_t num_pages);
  // num_tokens[s]: afterwards slots [0, num_tokens[s]) of sequence s exist; stored rows do not
  // move. What is missing comes from at most one new slab. May allocate: not for use inside a
  // layer.
  void reserve_totals(std::span<const int64_t> num_tokens);

  // [pages().slab_rows(slab), row_elements] of one layer.
  void* layer(int slab, int layer) const;
  int64_t num_bytes() const;

 private:
  DeviceKvCacheShape shape_;
  SlabPages pages_;
  std::vector<longhaul::cuda::Buffer> slabs_;
};

}  // namespace longhaul::attention::cuda
