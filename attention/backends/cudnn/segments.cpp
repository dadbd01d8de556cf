#include "attention/backends/cudnn/segments.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace longhaul::attention::cudnn {

std::vector<Segment> make_segments(std::span<const cuda::Item> items) {
  constexpr int64_t kMost = int64_t{1} << 30;
  std::vector<Segment> segments;
  for (const cuda::Item& item : items) {
    LH_CHECK(item.q_row >= 0 && item.q_length >= 0 && item.q_row <= kMost - item.q_length,
             "q rows {} + {}", item.q_row, item.q_length);
    LH_CHECK(item.kv_row >= 0 && item.kv_length >= 0 && item.kv_row <= kMost - item.kv_length,
             "kv rows {} + {}", item.kv_row, item.kv_length);
    LH_CHECK(item.page_begin < 0, "cuDNN attention takes no pages");
    const int64_t offset = std::clamp(item.causal_offset, -kMost, kMost);
    const int64_t keys = item.kv_length;
    // Query i sees clamp(i + offset + 1, 0, keys) keys: none before `first`, all from `all` on.
    const int64_t first =
        keys == 0 ? item.q_length : std::clamp(-offset, int64_t{0}, item.q_length);
    const int64_t all = std::clamp(keys - 1 - offset, first, item.q_length);
    const auto add = [&](Segment::Mask mask, int64_t from, int64_t to, int64_t seen) {
      if (from < to) segments.push_back({mask, item.q_row + from, to - from, item.kv_row, seen});
    };
    add(Segment::Mask::unseen, 0, first, 0);
    // The first query that sees all keys ends the causal piece; when there are only such, none is
    // needed.
    const int64_t causal_end = all > first ? std::min(all + 1, item.q_length) : first;
    add(Segment::Mask::causal, first, causal_end, causal_end + offset);
    add(Segment::Mask::full, causal_end, item.q_length, keys);
  }
  return segments;
}

}  // namespace longhaul::attention::cudnn
