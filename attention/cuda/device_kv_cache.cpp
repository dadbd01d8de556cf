#include "attention/cuda/device_kv_cache.h"

#include <algorithm>

namespace longhaul::attention::cuda {
namespace {

// Of a slab, and as many pages for each sequence: generated tokens come one a step, and the ends of
// all sequences should lie in few slabs (each is a place that the kernel which stores K and V has
// to know).
constexpr int64_t kLeastPages = 16;
constexpr int64_t kPagesOfASequence = 2;

}  // namespace

void DeviceKvCache::add_slab(int64_t num_pages) {
  slabs_.emplace_back(num_pages * shape_.page_size * shape_.row_elements *
                          dtype_size(shape_.dtype) * shape_.num_layers,
                      "the KV cache", MemoryUse::kv_cache);
  pages_.add_slab(num_pages);
}

void DeviceKvCache::reserve_totals(std::span<const int64_t> num_tokens) {
  if (const int64_t missing = pages_.missing_pages(num_tokens); missing > 0)
    add_slab(std::max({missing, kLeastPages, kPagesOfASequence * shape_.num_sequences}));
  pages_.take(num_tokens);
}

void* DeviceKvCache::layer(int slab, int layer) const {
  const int64_t layer_bytes =
      pages_.slab_rows(slab) * shape_.row_elements * dtype_size(shape_.dtype);
  return static_cast<std::byte*>(slabs_[static_cast<size_t>(slab)].data()) + layer * layer_bytes;
}

int64_t DeviceKvCache::num_bytes() const {
  int64_t bytes = 0;
  for (const longhaul::cuda::Buffer& s : slabs_) bytes += s.bytes();
  return bytes;
}

}  // namespace longhaul::attention::cuda
