// The paged cache against a flat copy of what was written.

#include "attention/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

struct Rows {
  Tensor k, v;
};

Rows random_rows(const KvCacheShape& s, int64_t length, Rng& rng) {
  Rows r{Tensor(s.dtype, {length, s.num_kv_heads, s.head_dim}),
         Tensor(s.dtype, {length, s.num_kv_heads, s.head_dim_v})};
  fill_normal(r.k, rng);
  fill_normal(r.v, rng);
  return r;
}

TEST(PagedKvCache, GivesBackWhatWasWritten) {
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const KvCacheShape shape{2,
                             3,
                             uniform(rng, 1, 3),
                             uniform(rng, 1, 9),
                             uniform(rng, 1, 9),
                             uniform(rng, 1, 20),
                             i % 2 == 0 ? DType::f32 : DType::bf16};
    PagedKvCache cache(shape);
    std::vector<std::vector<double>> k(6), v(6);  // [layer * 3 + sequence], flat
    std::vector<std::vector<KvSegment>> before(6);
    for (int step = 0; step < 5; ++step)
      for (int s = 0; s < shape.num_sequences; ++s) {
        const int64_t length = uniform(rng, 0, 40);
        const int64_t slot = cache.num_reserved(s);
        cache.reserve(s, length);
        EXPECT_EQ(cache.num_reserved(s), slot + length);
        for (int layer = 0; layer < shape.num_layers; ++layer) {
          const auto at = static_cast<size_t>(layer * 3 + s);
          const Rows r = random_rows(shape, length, rng);
          for (int64_t j = 0; j < r.k.num_elements(); ++j) k[at].push_back(get(r.k, j));
          for (int64_t j = 0; j < r.v.num_elements(); ++j) v[at].push_back(get(r.v, j));
          cache.write(layer, s, slot, r.k, r.v);
          // What was handed out earlier still holds: nothing moves.
          std::vector<KvSegment> now;
          const layout::KvRun run{1000, slot + length, 0};
          if (run.length > 0) cache.append_segments(layer, s, {&run, 1}, now);
          ASSERT_LE(before[at].size(), now.size());
          for (size_t j = 0; j < before[at].size(); ++j) EXPECT_EQ(now[j].k, before[at][j].k);
          before[at] = now;
        }
      }
    for (size_t at = 0; at < 6; ++at) {
      const auto layer = static_cast<int>(at / 3), s = static_cast<int>(at % 3);
      int64_t position = 1000;
      size_t next = 0;
      for (const KvSegment& seg : before[at]) {
        EXPECT_EQ(seg.position, position);
        for (int64_t t = 0; t < seg.length; ++t)
          for (int64_t j = 0; j < shape.num_kv_heads * shape.head_dim; ++j) {
            const ConstTensorView all{seg.k, shape.dtype, {seg.length * seg.k_stride}};
            EXPECT_EQ(get(all, t * seg.k_stride + j), k[at][next++]);
          }
        position += seg.length;
      }
      EXPECT_EQ(next, k[at].size());
      const int64_t stored = cache.num_reserved(s);
      const int64_t slot = uniform(rng, 0, stored), length = uniform(rng, 0, stored - slot);
      const Rows out = random_rows(shape, length, rng);
      Rows mutable_out{Tensor(shape.dtype, out.k.shape()), Tensor(shape.dtype, out.v.shape())};
      cache.read(layer, s, slot, length, mutable_out.k.data(), mutable_out.v.data());
      const int64_t row = shape.num_kv_heads * shape.head_dim_v;
      for (int64_t j = 0; j < length * row; ++j)
        EXPECT_EQ(get(mutable_out.v, j), v[at][static_cast<size_t>(slot * row + j)]);
    }
  }
}

TEST(PagedKvCache, OneReservationIsOneSegmentAndCountsWholePages) {
  const KvCacheShape shape{3, 2, 2, 8, 4, 64, DType::f32};
  const int64_t before = memory_figures(MemoryUse::kv_cache).current_bytes;
  {
    PagedKvCache cache(shape);
    EXPECT_EQ(cache.num_bytes(), 0);
    cache.reserve(1, 1000);
    const int64_t token_bytes = 3 * 2 * (8 + 4) * 4;
    EXPECT_EQ(cache.num_bytes(), 16 * 64 * token_bytes);
    EXPECT_EQ(memory_figures(MemoryUse::kv_cache).current_bytes - before, cache.num_bytes());
    std::vector<KvSegment> segments;
    const layout::KvRun run{0, 1000, 0};
    for (int layer = 0; layer < 3; ++layer) cache.append_segments(layer, 1, {&run, 1}, segments);
    EXPECT_EQ(segments.size(), 3u);
    cache.reserve(1, 24);  // the last page has room
    EXPECT_EQ(cache.num_bytes(), 16 * 64 * token_bytes);
    cache.reserve_total(1, 500);
    EXPECT_EQ(cache.num_reserved(1), 1024);
    cache.reserve(1, 1);
    EXPECT_EQ(cache.num_bytes(), 17 * 64 * token_bytes);
  }
  EXPECT_EQ(memory_figures(MemoryUse::kv_cache).current_bytes, before);
}

TEST(PagedKvCache, RefusesWhatWasNotReserved) {
  Rng rng(2);
  const KvCacheShape shape{1, 1, 1, 4, 4, 64, DType::f32};
  PagedKvCache cache(shape);
  cache.reserve(0, 10);
  const Rows r = random_rows(shape, 4, rng);
  EXPECT_NO_THROW(cache.write(0, 0, 6, r.k, r.v));
  EXPECT_THROW(cache.write(0, 0, 7, r.k, r.v), Error);  // the page has room, nobody asked for it
  EXPECT_THROW(cache.write(1, 0, 0, r.k, r.v), Error);
  EXPECT_THROW(cache.write(0, 1, 0, r.k, r.v), Error);
  const Tensor wide(DType::f32, {4, 1, 5});
  EXPECT_THROW(cache.write(0, 0, 0, wide, r.v), Error);
}

}  // namespace
}  // namespace longhaul::attention::testing
