#pragma once
// Which rows of which slab hold a sequence's slots: the bookkeeping of a paged cache, without its
// memory.

#include <cstdint>
#include <span>
#include <vector>

namespace longhaul::attention {

// Slot s of a sequence is its s-th token here. A slab is a run of rows, handed out by whole pages
// in order; what was handed out stays.
class SlabPages {
 public:
  SlabPages(int num_sequences, int64_t page_size) : page_size_(page_size) {
    sequences_.resize(static_cast<size_t>(num_sequences));
  }

  // Slots [slot, slot + rows) are rows [row, row + rows) of a slab.
  struct Extent {
    int64_t slot = 0;
    int slab = 0;
    int64_t row = 0;
    int64_t rows = 0;
  };

  void add_slab(int64_t num_pages) { slabs_.push_back({num_pages * page_size_, 0}); }
  int num_slabs() const { return static_cast<int>(slabs_.size()); }
  int64_t slab_rows(int slab) const { return slabs_[static_cast<size_t>(slab)].rows; }

  // Pages that a new slab must have before take() of the same totals.
  int64_t missing_pages(std::span<const int64_t> num_tokens) const;
  // num_tokens[s]: afterwards slots [0, num_tokens[s]) of sequence s exist; fewer than before is no
  // change. Sequences take their pages in order, each from as few runs of rows as there are.
  void take(std::span<const int64_t> num_tokens);

  // Ascending slots; pages may hold more slots than were asked for.
  const std::vector<Extent>& extents(int sequence) const {
    return sequences_[static_cast<size_t>(sequence)];
  }
  // The part of an extent that begins at `slot`.
  Extent at(int sequence, int64_t slot) const;

 private:
  struct Slab {
    int64_t rows = 0;
    int64_t used = 0;
  };
  int64_t missing_pages(int sequence, int64_t num_tokens) const;

  int64_t page_size_;
  std::vector<Slab> slabs_;
  std::vector<std::vector<Extent>> sequences_;
};

}  // namespace longhaul::attention
