#include "attention/slab_pages.h"

#include <algorithm>
#include <iterator>

#include "runtime/core/check.h"

namespace longhaul::attention {

int64_t SlabPages::missing_pages(int sequence, int64_t num_tokens) const {
  const std::vector<Extent>& e = extents(sequence);
  const int64_t have = e.empty() ? 0 : e.back().slot + e.back().rows;
  return std::max<int64_t>(0, (num_tokens - have + page_size_ - 1) / page_size_);
}

int64_t SlabPages::missing_pages(std::span<const int64_t> num_tokens) const {
  LH_CHECK(num_tokens.size() == sequences_.size(), "{} sequences of {}", num_tokens.size(),
           sequences_.size());
  int64_t missing = 0;
  for (size_t s = 0; s < num_tokens.size(); ++s)
    missing += missing_pages(static_cast<int>(s), num_tokens[s]);
  for (const Slab& slab : slabs_) missing -= (slab.rows - slab.used) / page_size_;
  return std::max<int64_t>(0, missing);
}

void SlabPages::take(std::span<const int64_t> num_tokens) {
  LH_CHECK(missing_pages(num_tokens) == 0, "{} pages too few", missing_pages(num_tokens));
  for (size_t s = 0; s < num_tokens.size(); ++s) {
    std::vector<Extent>& extents = sequences_[s];
    int64_t missing = missing_pages(static_cast<int>(s), num_tokens[s]) * page_size_;
    for (size_t i = 0; missing > 0; ++i) {
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
  }
}

SlabPages::Extent SlabPages::at(int sequence, int64_t slot) const {
  const std::vector<Extent>& all = extents(sequence);
  const auto after = std::upper_bound(all.begin(), all.end(), slot,
                                      [](int64_t s, const Extent& e) { return s < e.slot; });
  LH_CHECK(slot >= 0 && after != all.begin(), "slot {} of sequence {}", slot, sequence);
  const Extent& e = *std::prev(after);
  const int64_t skip = slot - e.slot;
  LH_CHECK(skip < e.rows, "slot {} of sequence {} is not reserved", slot, sequence);
  return {slot, e.slab, e.row + skip, e.rows - skip};
}

}  // namespace longhaul::attention
