#pragma once
// Paged KV cache of one rank in GPU memory: the KV of the tokens this rank owns, nobody else's.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/core/cuda/memory.h"

namespace longhaul::attention::cuda {

struct DeviceKvCacheShape {
  int num_layers = 0;
  int num_sequences = 0;
  int64_t row_elements = 0;  // of a token and layer: num_kv_heads * (head_dim + head_dim_v)
  int64_t page_size = 64;    // tokens
  DType dtype = DType::bf16;
};

// A token's K (all heads) is followed by its V: one row. Pages come from slabs; a slab is one
// allocation that holds the same pages of every layer. Pages that one reserve_total() adds are
// neighbours as far as the slab has room, so a long prompt is few extents. Slot s of a sequence is
// its s-th token on this rank.
class DeviceKvCache {
 public:
  explicit DeviceKvCache(const DeviceKvCacheShape& shape) : shape_(shape) {
    sequences_.resize(static_cast<size_t>(shape.num_sequences));
  }

  const DeviceKvCacheShape& shape() const { return shape_; }
  // Room in one slab that later reservations share out.
  void add_slab(int64_t num_pages);
  // num_tokens[s]: afterwards slots [0, num_tokens[s]) of sequence s exist; stored rows do not
  // move. What is missing comes from at most one new slab, so that the new slots of all sequences
  // are in two slabs at the most. May allocate: not for use inside a layer.
  void reserve_totals(std::span<const int64_t> num_tokens);

  // Slots [slot, slot + rows) are rows [row, row + rows) of a slab, in every layer.
  struct Extent {
    int64_t slot = 0;
    int slab = 0;
    int64_t row = 0;
    int64_t rows = 0;
  };
  // Ascending slots; pages may hold more slots than were asked for.
  const std::vector<Extent>& extents(int sequence) const {
    return sequences_[static_cast<size_t>(sequence)];
  }
  // The extent part that begins at `slot`.
  Extent at(int sequence, int64_t slot) const;

  int num_slabs() const { return static_cast<int>(slabs_.size()); }
  int64_t slab_rows(int slab) const { return slabs_[static_cast<size_t>(slab)].rows; }  // a layer's
  // [slab_rows, row_elements] of one layer.
  void* layer(int slab, int layer) const;
  int64_t num_bytes() const;

 private:
  struct Slab {
    longhaul::cuda::Buffer memory;
    int64_t rows = 0;
    int64_t used = 0;
  };
  int64_t missing_pages(int sequence, int64_t num_tokens) const;
  void take_pages(int sequence, int64_t num_pages);

  DeviceKvCacheShape shape_;
  std::vector<Slab> slabs_;
  std::vector<std::vector<Extent>> sequences_;
};

}  // namespace longhaul::attention::cuda
