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

int64_t DeviceKvCache::missing_pages(int sequence, int64_t num_tokens) const {
  const std::vector<Extent>& e = extents(sequence);
  const int64_t have = e.empty() ? 0 : e.back().slot + e.back().rows;
  return std::max<int64_t>(0, (num_tokens - have + shape_.page_size - 1) / shape_.page_size);
}

void DeviceKvCache::take_pages(int sequence, int64_t num_pages) {
  std::vector<Extent>& extents = sequences_[static_cast<size_t>(sequence)];
  int64_t missing = num_pages * shape_.page_size;
  for (size_t i = 0; i < slabs_.size() && missing > 0; ++i) {
    Slab& slab = slabs_[i];
    const int64_t rows = std::min(missing, slab.rows - slab.used);
    if (rows == 0) continue;
    const int64_t slot = extents.empty() ? 0 : extents.back().slot + extents.back().rows;
    if (!extents.empty() && extents.back().slab == static_cast<int>(i) &&
        extents.back().row + extents.back().rows == slab.used)
      extents.back().rows += rows;
    else
      extents.push_back({slot, static_cast<int>(i), slab.used, rows});
    slab.used += rows;
    missing -= rows;
  }
  LH_CHECK(missing == 0, "{} rows too few", missing);
}

void DeviceKvCache::reserve_totals(std::span<const int64_t> num_tokens) {
  const auto sequences = static_cast<int>(num_tokens.size());
  LH_CHECK(sequences == shape_.num_sequences, "{} sequences", sequences);
  int64_t missing = 0;
  for (int s = 0; s < sequences; ++s)
    missing += missing_pages(s, num_tokens[static_cast<size_t>(s)]);
  // Only the last slab has room left: each was used up before the next was made.
  if (!slabs_.empty()) missing -= (slabs_.back().rows - slabs_.back().used) / shape_.page_size;
  if (missing > 0) add_slab(std::max(missing, kLeastPages));
  for (int s = 0; s < sequences; ++s)
    take_pages(s, missing_pages(s, num_tokens[static_cast<size_t>(s)]));
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
