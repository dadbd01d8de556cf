#include "runtime/layout/batch_layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/core/suggest.h"
#include "runtime/layout/balance.h"

namespace longhaul::layout {
namespace {

constexpr std::array<std::string_view, 3> kLayoutNames = {"balanced", "zigzag", "contiguous"};
constexpr int kMaxRanks = 1 << 15;

std::vector<Block> zigzag_blocks(int cp, std::span<const SequenceExtent> sequences) {
  const size_t ranks = static_cast<size_t>(cp), bs = sequences.size();
  std::vector<Block> blocks(ranks * 2 * bs);
  for (size_t s = 0; s < bs; ++s) {
    const int64_t n = 2 * int64_t{cp};
    const int64_t base = sequences[s].extend / n, remainder = sequences[s].extend % n;
    for (int64_t i = 0; i < n; ++i) {
      const size_t rank = static_cast<size_t>(i < cp ? i : n - 1 - i), half = i < cp ? 0 : 1;
      blocks[(rank * 2 + half) * bs + s] = {sequences[s].prefix + i * base + std::min(i, remainder),
                                            base + (i < remainder ? 1 : 0)};
    }
  }
  return blocks;
}

std::vector<Block> contiguous_blocks(int cp, std::span<const SequenceExtent> sequences) {
  const size_t ranks = static_cast<size_t>(cp), bs = sequences.size();
  std::vector<Block> blocks(ranks * 2 * bs);
  for (size_t s = 0; s < bs; ++s) {
    const SequenceExtent& sequence = sequences[s];
    // floor(L * i / cp) without a product that could overflow.
    const int64_t whole = sequence.extend / cp, rest = sequence.extend % cp;
    auto border = [&](int64_t i) { return sequence.prefix + whole * i + rest * i / cp; };
    for (int64_t r = 0; r < cp; ++r) {
      const size_t at = static_cast<size_t>(r) * 2 * bs + s;
      blocks[at] = {border(r), border(r + 1) - border(r)};
      blocks[at + bs] = {sequence.prefix + sequence.extend, 0};
    }
  }
  return blocks;
}

// Running sums of the largest tokens' work, at most `most` of them; the first entry is 0.
std::vector<double> largest_tokens(std::span<const SequenceExtent> sequences, size_t most) {
  std::priority_queue<std::pair<int64_t, int64_t>> heads;  // next largest token, how many are left
  for (const SequenceExtent& s : sequences)
    if (s.extend > 0) heads.push({s.prefix + s.extend, s.extend});
  std::vector<double> sums = {0};
  while (!heads.empty() && sums.size() <= most) {
    const auto [work, left] = heads.top();
    heads.pop();
    sums.push_back(sums.back() + static_cast<double>(work));
    if (left > 1) heads.push({work - 1, left - 1});
  }
  return sums;
}

double largest_token(std::span<const SequenceExtent> sequences) {
  double largest = 0;
  for (const SequenceExtent& s : sequences)
    if (s.extend > 0) largest = std::max(largest, static_cast<double>(s.prefix + s.extend));
  return largest;
}

}  // namespace

std::span<const std::string_view> layout_names() {
  return kLayoutNames;
}

std::string_view layout_name(LayoutKind kind) {
  return kLayoutNames[static_cast<size_t>(kind)];
}

LayoutKind parse_layout(std::string_view name) {
  for (size_t i = 0; i < kLayoutNames.size(); ++i)
    if (name == kLayoutNames[i]) return static_cast<LayoutKind>(i);
  const std::string_view near = nearest_name(name, kLayoutNames);
  if (!near.empty()) fail(ExitCode::usage, "unknown layout '{}': did you mean '{}'?", name, near);
  fail(ExitCode::usage, "unknown layout '{}': choose balanced, zigzag or contiguous", name);
}

BatchLayout BatchLayout::make(LayoutKind kind, int cp, std::span<const SequenceExtent> sequences,
                              const RankLoad* load) {
  LH_CHECK(cp >= 1 && cp <= kMaxRanks, "cp {}", cp);
  LH_CHECK(sequences.size() <= std::numeric_limits<int>::max() / (4 * static_cast<size_t>(cp)),
           "{} sequences on {} ranks", sequences.size(), cp);
  constexpr int64_t limit = std::numeric_limits<int64_t>::max() / 4;
  BatchLayout layout;
  for (const SequenceExtent& s : sequences) {
    LH_CHECK(s.prefix >= 0 && s.extend >= 0 && s.prefix < limit && s.extend < limit,
             "prefix {}, extend {}", s.prefix, s.extend);
    LH_CHECK(layout.total_tokens_ <= limit - s.extend, "more than {} tokens", limit);
    layout.total_tokens_ += s.extend;
  }
  if (load != nullptr)
    LH_CHECK(load->tokens.size() == static_cast<size_t>(cp) &&
                 load->area.size() == static_cast<size_t>(cp),
             "load of {} and {} ranks, cp {}", load->tokens.size(), load->area.size(), cp);
  layout.kind_ = kind;
  layout.cp_ = cp;
  layout.sequences_.assign(sequences.begin(), sequences.end());
  switch (kind) {
    case LayoutKind::balanced:
      layout.blocks_ = balanced_blocks(cp, sequences, load);
      break;
    case LayoutKind::zigzag:
      layout.blocks_ = zigzag_blocks(cp, sequences);
      break;
    case LayoutKind::contiguous:
      layout.blocks_ = contiguous_blocks(cp, sequences);
      break;
  }
  layout.index();
  return layout;
}

void BatchLayout::index() {
  const size_t ranks = static_cast<size_t>(cp_), bs = sequences_.size(), n = 2 * ranks;
  rows_.resize(blocks_.size());
  num_tokens_.resize(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    int64_t row = 0;
    for (size_t i = r * 2 * bs; i < (r + 1) * 2 * bs; ++i) {
      rows_[i] = row;
      row += blocks_[i].length;
    }
    num_tokens_[r] = row;
  }
  order_.resize(bs * n);
  for (size_t s = 0; s < bs; ++s) {
    Owner* order = order_.data() + s * n;
    for (size_t i = 0; i < n; ++i)
      order[i] = {static_cast<int32_t>(i < ranks ? i : n - 1 - i),
                  i < ranks ? Half::prev : Half::next};
    // zigzag and contiguous are in order already.
    auto before = [&](const Owner& a, const Owner& b) {
      const Block& x = block(a.cp_rank, a.half, static_cast<int>(s));
      const Block& y = block(b.cp_rank, b.half, static_cast<int>(s));
      return x.start != y.start ? x.start < y.start : x.length == 0 && y.length > 0;
    };
    if (!std::is_sorted(order, order + n, before)) std::stable_sort(order, order + n, before);
    int64_t position = sequences_[s].prefix;
    for (size_t i = 0; i < n; ++i) {
      const Block& b = block(order[i].cp_rank, order[i].half, static_cast<int>(s));
      LH_CHECK(b.start == position && b.length >= 0, "sequence {}: block {} at {}, not {}", s, i,
               b.start, position);
      position = b.end();
    }
    LH_CHECK(position == sequences_[s].prefix + sequences_[s].extend, "sequence {} ends at {}", s,
             position);
  }
}

double BatchLayout::area(int cp_rank) const {
  const size_t per_rank = 2 * sequences_.size(), first = static_cast<size_t>(cp_rank) * per_rank;
  double sum = 0;
  for (size_t i = first; i < first + per_rank; ++i) sum += blocks_[i].area();
  return sum;
}

BatchLayout::Place BatchLayout::place(int sequence, int64_t position) const {
  const SequenceExtent& s = sequences_[static_cast<size_t>(sequence)];
  LH_CHECK(position >= s.prefix && position < s.prefix + s.extend,
           "position {} of sequence {}: new tokens are [{}, {})", position, sequence, s.prefix,
           s.prefix + s.extend);
  // The first block in natural order that ends after the position.
  int low = 0, high = 2 * cp_ - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    const Owner o = owner(sequence, middle);
    if (block(o.cp_rank, o.half, sequence).end() > position)
      high = middle;
    else
      low = middle + 1;
  }
  const Owner o = owner(sequence, low);
  return {o.cp_rank,
          row(o.cp_rank, o.half, sequence) + position - block(o.cp_rank, o.half, sequence).start};
}

Imbalance imbalance(const BatchLayout& layout) {
  double max_tokens = 0, max_area = 0, sum_area = 0;
  for (int r = 0; r < layout.cp(); ++r) {
    const double area = layout.area(r);
    max_tokens = std::max(max_tokens, static_cast<double>(layout.num_tokens(r)));
    max_area = std::max(max_area, area);
    sum_area += area;
  }
  Imbalance result;
  if (layout.total_tokens() == 0) return result;
  result.tokens = max_tokens * layout.cp() / static_cast<double>(layout.total_tokens());
  result.area = max_area * layout.cp() / sum_area;
  return result;
}

double area_imbalance_lower_bound(int cp, std::span<const SequenceExtent> sequences) {
  double total = 0;
  for (const SequenceExtent& s : sequences) total += Block{s.prefix, s.extend}.area();
  if (total <= 0) return 1;
  const double mean = total / cp;
  // Areas are whole numbers (exact in a double below 2^53).
  double bound = std::max(std::ceil(mean), largest_token(sequences));
  // above[x]: work of the x largest tokens. A few tokens a rank decide: with more, the work of one
  // more or less is below what matters.
  constexpr size_t kMost = 64;
  const size_t ranks = static_cast<size_t>(cp);
  const std::vector<double> above = largest_tokens(sequences, kMost * ranks + 1);
  // Of the x largest tokens, e = x - k*cp are too many for k a rank: m ranks, 1 <= m <= e, hold
  // k*m + e of them or more, at best the smallest ones, and one of those ranks at least their mean.
  auto try_subset = [&](size_t x) {
    const size_t k = (x - 1) / ranks, e = x - k * ranks;
    double least = above[x];
    for (size_t m = 1; m <= e; ++m)
      least =
          std::min(least, (above[x] - above[x - std::min(x, k * m + e)]) / static_cast<double>(m));
    bound = std::max(bound, least);
  };
  const size_t step = std::max<size_t>(1, ranks / 8);
  for (size_t x = 1; x < above.size(); x += step) try_subset(x);
  if (above.size() > 1) try_subset(above.size() - 1);
  return bound / mean;
}

}  // namespace longhaul::layout
