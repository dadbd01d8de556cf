#include "attention/cuda/device_kv_cache.h"

#include <algorithm>

namespace longhaul::attention::cuda {
namespace {

constexpr int64_t kLeastPages = 16;  // of a slab: generated tokens come one a step

}  // namespace

void DeviceKvCache::add_slab(int64_t num_pages) {
  Slab slab;
  slab.rows = num_pages * shape_.page_size;
  slab.memory = longhaul::cuda::Buffer(
      slab.rows * shape_.row_elements * dtype_size(shape_.dtype) * shape_.num_layers,
      "the KV cache", MemoryUse::kv_cache);
  slabs_.push_back(std::move(slab));
}

void DeviceKvCache::reserve_total(int sequence, int64_t num_tokens) {
  std::vector<Extent>& extents = sequences_[static_cast<size_t>(sequence)];
  int64_t have = extents.empty() ? 0 : extents.back().slot + extents.back().rows;
  while (have < num_tokens) {
    const int64_t missing = (num_tokens - have + shape_.page_size - 1) / shape_.page_size;
    if (slabs_.empty() || slabs_.back().used == slabs_.back().rows)
      add_slab(std::max(missing, kLeastPages));
    Slab& slab = slabs_.back();
    const int64_t rows = std::min(missing * shape_.page_size, slab.rows - slab.used);
    const int at = num_slabs() - 1;
    if (!extents.empty() && extents.back().slab == at &&
        extents.back().row + extents.back().rows == slab.used)
      extents.back().rows += rows;
    else
      extents.push_back({have, at, slab.used, rows});
    slab.used += rows;
    have += rows;
  }
}

DeviceKvCache::Extent DeviceKvCache::at(int sequence, int64_t slot) const {
  const std::vector<Extent>& all = extents(sequence);
  const auto after = std::upper_bound(all.begin(), all.end(), slot,
                                      [](int64_t s, const Extent& e) { return s < e.slot; });
  LH_CHECK(after != all.begin(), "slot {} of sequence {}", slot, sequence);
  Extent e = *std::prev(after);
  const int64_t skip = slot - e.slot;
  LH_CHECK(skip < e.rows, "slot {} of sequence {} is not reserved", slot, sequence);
  return {slot, e.slab, e.row + skip, e.rows - skip};
}

void* DeviceKvCache::layer(int slab, int layer) const {
  const Slab& s = slabs_[static_cast<size_t>(slab)];
  const int64_t layer_bytes = s.rows * shape_.row_elements * dtype_size(shape_.dtype);
  return static_cast<std::byte*>(s.memory.data()) + layer * layer_bytes;
}

int64_t DeviceKvCache::num_bytes() const {
  int64_t bytes = 0;
  for (const Slab& s : slabs_) bytes += s.memory.bytes();
  return bytes;
}

}  // namespace longhaul::attention::cuda
