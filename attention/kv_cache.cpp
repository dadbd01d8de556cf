#include "attention/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace longhaul::attention {
namespace {

// Pages [first_page, first_page + num_pages) of one sequence. Per layer the K rows of all its pages
// follow each other, then the V rows.
struct Slab {
  int64_t first_page = 0;
  int64_t num_pages = 0;
  Tensor bytes;
};

// Slots [slot, slot + length) that lie in one slab, of one layer.
struct Rows {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  int64_t length = 0;
};

}  // namespace

struct PagedKvCache::Impl {
  struct Sequence {
    std::vector<Slab> slabs;  // ascending first_page, no gaps
    int64_t num_pages = 0;
    int64_t num_reserved = 0;
  };

  std::vector<Sequence> sequences;
  int num_layers = 0;
  int64_t page_size = 0;
  int64_t k_row = 0;  // bytes of one token's K
  int64_t v_row = 0;
  int64_t num_bytes = 0;

  const Sequence& at(int sequence) const {
    LH_CHECK(sequence >= 0 && static_cast<size_t>(sequence) < sequences.size(), "sequence {} of {}",
             sequence, sequences.size());
    return sequences[static_cast<size_t>(sequence)];
  }

  // The longest stretch from `slot` on, at most `length`, that is contiguous in memory.
  Rows rows(int layer, int sequence, int64_t slot, int64_t length) const {
    const Sequence& s = at(sequence);
    LH_CHECK(layer >= 0 && layer < num_layers, "layer {} of {}", layer, num_layers);
    LH_CHECK(slot >= 0 && length > 0 && slot + length <= s.num_reserved,
             "slots [{}, {}) of {} reserved for sequence {}", slot, slot + length, s.num_reserved,
             sequence);
    const int64_t page = slot / page_size;
    const auto after =
        std::upper_bound(s.slabs.begin(), s.slabs.end(), page,
                         [](int64_t p, const Slab& slab) { return p < slab.first_page; });
    const Slab& slab = *(after - 1);
    const int64_t tokens = slab.num_pages * page_size;
    const int64_t offset = slot - slab.first_page * page_size;
    std::byte* base = static_cast<std::byte*>(const_cast<void*>(slab.bytes.data())) +
                      layer * tokens * (k_row + v_row);
    return {base + offset * k_row, base + tokens * k_row + offset * v_row,
            std::min(length, tokens - offset)};
  }
};

PagedKvCache::PagedKvCache(const KvCacheShape& shape)
    : shape_(shape), impl_(std::make_unique<Impl>()) {
  LH_CHECK(shape.num_layers >= 0 && shape.num_sequences >= 0 && shape.num_kv_heads >= 0 &&
               shape.head_dim >= 0 && shape.head_dim_v >= 0 && shape.page_size >= 1,
           "{} layers, {} sequences, {} kv heads, head dims {} and {}, page size {}",
           shape.num_layers, shape.num_sequences, shape.num_kv_heads, shape.head_dim,
           shape.head_dim_v, shape.page_size);
  impl_->sequences.resize(static_cast<size_t>(shape.num_sequences));
  impl_->num_layers = shape.num_layers;
  impl_->page_size = shape.page_size;
  impl_->k_row = shape.num_kv_heads * shape.head_dim * dtype_size(shape.dtype);
  impl_->v_row = shape.num_kv_heads * shape.head_dim_v * dtype_size(shape.dtype);
}

PagedKvCache::~PagedKvCache() = default;

void PagedKvCache::reserve(int sequence, int64_t count) {
  LH_CHECK(count >= 0, "{} tokens", count);
  reserve_total(sequence, num_reserved(sequence) + count);
}

void PagedKvCache::reserve_total(int sequence, int64_t num_tokens) {
  LH_CHECK(num_tokens >= 0, "{} tokens", num_tokens);
  impl_->at(sequence);
  Impl::Sequence& s = impl_->sequences[static_cast<size_t>(sequence)];
  const int64_t pages = (num_tokens + shape_.page_size - 1) / shape_.page_size;
  if (pages > s.num_pages) {
    const int64_t more = pages - s.num_pages;
    const int64_t bytes =
        more * shape_.page_size * (impl_->k_row + impl_->v_row) * shape_.num_layers;
    s.slabs.push_back({s.num_pages, more, Tensor(DType::u8, {bytes}, MemoryUse::kv_cache)});
    s.num_pages = pages;
    impl_->num_bytes += bytes;
  }
  s.num_reserved = std::max(s.num_reserved, num_tokens);
}

int64_t PagedKvCache::num_reserved(int sequence) const {
  return impl_->at(sequence).num_reserved;
}

void PagedKvCache::write(int layer, int sequence, int64_t slot, ConstTensorView k,
                         ConstTensorView v) {
  LH_CHECK(k.dtype == shape_.dtype && v.dtype == shape_.dtype, "k {}, v {}, cache {}",
           dtype_name(k.dtype), dtype_name(v.dtype), dtype_name(shape_.dtype));
  const int64_t length = k.rows();
  LH_CHECK(k.shape == Shape({length, shape_.num_kv_heads, shape_.head_dim}) &&
               v.shape == Shape({length, shape_.num_kv_heads, shape_.head_dim_v}),
           "k {}, v {}, cache of {} kv heads, head dims {} and {}", k.shape.to_string(),
           v.shape.to_string(), shape_.num_kv_heads, shape_.head_dim, shape_.head_dim_v);
  const auto* k_from = static_cast<const std::byte*>(k.data);
  const auto* v_from = static_cast<const std::byte*>(v.data);
  for (int64_t done = 0; done < length;) {
    const Rows r = impl_->rows(layer, sequence, slot + done, length - done);
    std::memcpy(r.k, k_from + done * impl_->k_row, static_cast<size_t>(r.length * impl_->k_row));
    std::memcpy(r.v, v_from + done * impl_->v_row, static_cast<size_t>(r.length * impl_->v_row));
    done += r.length;
  }
}

void PagedKvCache::append_segments(int layer, int sequence, std::span<const layout::KvRun> runs,
                                   std::vector<KvSegment>& out) const {
  const int64_t k_stride = shape_.num_kv_heads * shape_.head_dim;
  const int64_t v_stride = shape_.num_kv_heads * shape_.head_dim_v;
  for (const layout::KvRun& run : runs)
    for (int64_t done = 0; done < run.length;) {
      const Rows r = impl_->rows(layer, sequence, run.slot + done, run.length - done);
      out.push_back({run.position + done, r.length, r.k, r.v, k_stride, v_stride});
      done += r.length;
    }
}

void PagedKvCache::read(int layer, int sequence, int64_t slot, int64_t length, void* k_out,
                        void* v_out) const {
  auto* k_to = static_cast<std::byte*>(k_out);
  auto* v_to = static_cast<std::byte*>(v_out);
  for (int64_t done = 0; done < length;) {
    const Rows r = impl_->rows(layer, sequence, slot + done, length - done);
    std::memcpy(k_to + done * impl_->k_row, r.k, static_cast<size_t>(r.length * impl_->k_row));
    std::memcpy(v_to + done * impl_->v_row, r.v, static_cast<size_t>(r.length * impl_->v_row));
    done += r.length;
  }
}

int64_t PagedKvCache::num_bytes() const {
  return impl_->num_bytes;
}

}  // namespace longhaul::attention
