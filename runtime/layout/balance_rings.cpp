#include "runtime/layout/balance_rings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

namespace longhaul::layout {
namespace {

// Work of the tokens at positions [low, high).
double span_area(int64_t low, int64_t high) {
  return Block{low, high - low}.area();
}

// After some rings, the tokens [low, high) are left.
struct Node {
  int64_t low = 0, high = 0;
  double cost = 0;   // of the rings so far
  double bound = 0;  // with what the rest must at least deviate
  int parent = -1;
};

// Adds a level: the nodes of the lowest bounds, no two alike.
void keep_best_nodes(std::vector<Node>& nodes, size_t width,
                     std::vector<std::vector<Node>>& levels) {
  std::sort(nodes.begin(), nodes.end(), [](const Node& a, const Node& b) {
    if (a.bound != b.bound) return a.bound < b.bound;
    return a.low != b.low ? a.low < b.low : a.high < b.high;
  });
  std::vector<Node> kept;
  for (const Node& node : nodes) {
    if (kept.size() == width) break;
    const bool known = std::any_of(kept.begin(), kept.end(), [&](const Node& k) {
      return k.low == node.low && k.high == node.high;
    });
    if (!known) kept.push_back(node);
  }
  levels.push_back(std::move(kept));
}

class RingSearch {
 public:
  RingSearch(const SequenceExtent& sequence, std::span<const Share> shares, const Goal& goal)
      : sequence_(sequence), shares_(shares), goal_(goal) {
    rest_area_.resize(shares.size() + 1, 0);
    rest_tokens_.resize(shares.size() + 1, 0);
    for (size_t k = shares.size(); k-- > 0;) {
      rest_area_[k] = rest_area_[k + 1] + shares[k].area;
      rest_tokens_[k] = rest_tokens_[k + 1] + shares[k].tokens;
    }
    // One token moved between the ends of a ring changes its area by up to the sequence's length:
    // against a rank's mean that says how much searching pays.
    const double grain = static_cast<double>(sequence.extend) / goal.mean_area;
    width_ = grain < 1e-3 ? 1 : grain < 1e-2 ? 8 : 40;
  }

  std::vector<Piece> run() {
    const size_t rings = shares_.size();
    levels_.assign(1, {{sequence_.prefix, sequence_.prefix + sequence_.extend, 0, 0, -1}});
    for (size_t k = 0; k + 1 < rings; ++k) {
      next_.clear();
      for (size_t i = 0; i < levels_[k].size(); ++i) expand(k, static_cast<int>(i));
      keep_best_nodes(next_, width_, levels_);
    }
    int best = 0;
    double best_cost = -1;
    for (size_t i = 0; i < levels_.back().size(); ++i) {
      const Node& n = levels_.back()[i];
      const double cost = n.cost + ring_cost(rings - 1, span_area(n.low, n.high), n.high - n.low);
      if (best_cost < 0 || cost < best_cost) {
        best = static_cast<int>(i);
        best_cost = cost;
      }
    }
    return pieces(best);
  }

 private:
  double ring_cost(size_t k, double area, int64_t tokens) const {
    const double off = (area - shares_[k].area) / goal_.mean_area;
    const double count = static_cast<double>(tokens);
    const double token_off = (count - shares_[k].tokens) / goal_.mean_tokens;
    const double over = std::max(0.0, (count - shares_[k].token_cap) / goal_.mean_tokens);
    // Too much is worse than too little: only the fullest rank counts.
    return off * off * (off > 0 ? 4 : 1) + 0.02 * token_off * token_off + 4 * over * over;
  }

  void add(size_t k, int parent, int64_t front, int64_t back) {
    const Node& from = levels_[k][static_cast<size_t>(parent)];
    const int64_t low = from.low + front, high = from.high - back;
    const double area = span_area(from.low, low) + span_area(high, from.high);
    const double cost = from.cost + ring_cost(k, area, front + back);
    const double rest = static_cast<double>(shares_.size() - k - 1);
    // What is left minus what the others want is spread over them at best.
    const double drift = (span_area(low, high) - rest_area_[k + 1]) / goal_.mean_area;
    const double token_drift =
        (static_cast<double>(high - low) - rest_tokens_[k + 1]) / goal_.mean_tokens;
    next_.push_back(
        {low, high, cost,
         cost + (drift * drift * (drift > 0 ? 4 : 1) + 0.02 * token_drift * token_drift) / rest,
         parent});
  }

  // Ring sizes near the one that meets the share. With `count` tokens, `front` of them at the low
  // end, the area is linear in `front`: back*high - back(back-1)/2 + front*low + front(front+1)/2
  // with back = count - front has slope low + count - high.
  void expand(size_t k, int parent) {
    const Node from = levels_[k][static_cast<size_t>(parent)];
    const int64_t left = from.high - from.low;
    const double all_area = span_area(from.low, from.high);
    const double want_area = rest_area_[k] > 0 ? all_area * shares_[k].area / rest_area_[k] : 0;
    const double want_tokens =
        rest_tokens_[k] > 0 ? static_cast<double>(left) * shares_[k].tokens / rest_tokens_[k] : 0;
    const double low = static_cast<double>(from.low), high = static_cast<double>(from.high);
    // Token counts: near the wish, and those that meet the area from one end alone.
    std::array<int64_t, 8> counts{};
    size_t num = 0;
    const int64_t floor = static_cast<int64_t>(want_tokens);
    for (int64_t c = width_ > 8 ? floor - 1 : floor; c <= (width_ > 8 ? floor + 2 : floor + 1); ++c)
      counts[num++] = c;
    const double b = high + 0.5, discriminant = b * b - 2 * want_area;
    counts[num++] = discriminant > 0 ? std::llround(b - std::sqrt(discriminant)) : left;
    const double c = low + 0.5;
    counts[num++] = std::llround(std::sqrt(c * c + 2 * want_area) - c);
    for (size_t i = 0; i < num; ++i) {
      const int64_t count = std::clamp<int64_t>(counts[i], 0, left);
      const double t = static_cast<double>(count), slope = high - low - t;
      if (slope < 0.5) {
        add(k, parent, left, 0);
        continue;
      }
      const double wish = (t * high - t * (t - 1) / 2 - want_area) / slope;
      const int64_t front = static_cast<int64_t>(std::clamp(std::floor(wish), 0.0, t));
      add(k, parent, front, count - front);
      if (front < count) add(k, parent, front + 1, count - front - 1);
    }
  }

  std::vector<Piece> pieces(int last) const {
    const size_t rings = shares_.size();
    std::vector<Piece> result(2 * rings - 1);
    const Node& core = levels_.back()[static_cast<size_t>(last)];
    result[rings - 1] = {core.low, core.high - core.low, shares_[rings - 1].rank};
    int at = last;
    for (size_t k = rings - 1; k-- > 0;) {
      const Node& inner = levels_[k + 1][static_cast<size_t>(at)];
      at = inner.parent;
      const Node& outer = levels_[k][static_cast<size_t>(at)];
      result[k] = {outer.low, inner.low - outer.low, shares_[k].rank};
      result[2 * rings - 2 - k] = {inner.high, outer.high - inner.high, shares_[k].rank};
    }
    return result;
  }

  SequenceExtent sequence_;
  std::span<const Share> shares_;
  const Goal& goal_;
  std::vector<double> rest_area_, rest_tokens_;  // wished by share k and all further in
  size_t width_ = 1;
  std::vector<std::vector<Node>> levels_;
  std::vector<Node> next_;
};

// The other way round: given a limit to the excess over each share, every ring takes as much as
// fits below it, and what matters is that nothing is left at the end. The least such limit is found
// by bisection. Better than deviations from the mean where a ring has only a few tokens.
class TightRings {
 public:
  TightRings(const SequenceExtent& sequence, std::span<const Share> shares, const Goal& goal)
      : sequence_(sequence), shares_(shares), goal_(goal) {
    rest_area_.resize(shares.size() + 1, 0);
    for (size_t k = shares.size(); k-- > 0;) rest_area_[k] = rest_area_[k + 1] + shares[k].area;
  }

  // Pieces whose largest excess is below `most` of the mean area, if there are any.
  std::optional<std::vector<Piece>> run(double most) {
    std::optional<std::vector<Piece>> best;
    double low = 0, high = most;
    for (int i = 0; i < 7; ++i) {
      const double middle = (low + high) / 2;
      if (auto pieces = attempt(middle * goal_.mean_area)) {
        best = std::move(pieces);
        high = middle;
      } else {
        low = middle;
      }
    }
    return best;
  }

 private:
  std::optional<std::vector<Piece>> attempt(double slack) {
    levels_.assign(1, {{sequence_.prefix, sequence_.prefix + sequence_.extend, 0, 0, -1}});
    for (size_t k = 0; k < shares_.size(); ++k) {
      next_.clear();
      for (size_t i = 0; i < levels_[k].size(); ++i)
        expand(k, static_cast<int>(i), shares_[k].area + slack);
      keep_best_nodes(next_, kWidth, levels_);
      if (levels_.back().empty()) return std::nullopt;
    }
    const Node& last = levels_.back().front();
    if (last.low != last.high) return std::nullopt;
    return pieces();
  }

  // Every number of tokens at the high end that fits, and with each as many at the low end.
  void expand(size_t k, int parent, double limit) {
    const Node from = levels_[k][static_cast<size_t>(parent)];
    const auto cap = static_cast<int64_t>(std::max(0.0, shares_[k].token_cap));
    const int64_t most = std::min(cap, from.high - from.low);
    for (int64_t back = 0; back <= most; ++back) {
      const double room = limit - span_area(from.high - back, from.high);
      if (room < 0) break;
      // low*n + n(n+1)/2 <= room
      const double c = static_cast<double>(from.low) + 0.5;
      const auto fits = static_cast<int64_t>(std::sqrt(c * c + 2 * room) - c + 1e-9);
      const int64_t front = std::min({fits, cap - back, from.high - from.low - back});
      const int64_t low = from.low + front, high = from.high - back;
      next_.push_back({low, high, 0, span_area(low, high), parent});
    }
  }

  std::vector<Piece> pieces() const {
    const size_t rings = shares_.size();
    std::vector<Piece> result(2 * rings);
    int at = 0;
    for (size_t k = rings; k-- > 0;) {
      const Node& inner = levels_[k + 1][static_cast<size_t>(at)];
      at = inner.parent;
      const Node& outer = levels_[k][static_cast<size_t>(at)];
      result[k] = {outer.low, inner.low - outer.low, shares_[k].rank};
      result[2 * rings - 1 - k] = {inner.high, outer.high - inner.high, shares_[k].rank};
    }
    return result;
  }

  static constexpr size_t kWidth = 32;
  SequenceExtent sequence_;
  std::span<const Share> shares_;
  const Goal& goal_;
  std::vector<double> rest_area_;
  std::vector<std::vector<Node>> levels_;
  std::vector<Node> next_;
};

// Equal token counts as far as they go, the ranks with one token more at the low end of the
// sequence and the others at the high end, each in zigzag order: best where a long prefix makes all
// tokens nearly alike and a rank has only a few.
std::vector<Piece> cut_tiers(const SequenceExtent& sequence, std::span<const Share> shares) {
  const int64_t ranks = static_cast<int64_t>(shares.size());
  const int64_t count = sequence.extend / ranks, more = sequence.extend % ranks;
  std::vector<Piece> pieces;
  int64_t position = sequence.prefix;
  auto add_tier = [&](int64_t first, int64_t last, int64_t tokens) {
    for (int64_t i = first; i < 2 * last - first; ++i) {
      const bool low = i < last;
      const int64_t share = low ? i : 2 * last - 1 - i;
      const int64_t length = low ? tokens / 2 : tokens - tokens / 2;
      pieces.push_back({position, length, shares[static_cast<size_t>(share)].rank});
      position += length;
    }
  };
  add_tier(0, more, count + 1);
  add_tier(more, ranks, count);
  return pieces;
}

double largest_excess(std::span<const Piece> pieces, std::span<const Share> shares,
                      const Goal& goal) {
  double most = 0;
  for (const Share& share : shares) {
    double area = 0;
    for (const Piece& piece : pieces)
      if (piece.rank == share.rank) area += piece.area();
    most = std::max(most, (area - share.area) / goal.mean_area);
  }
  return most;
}

}  // namespace

std::vector<Piece> cut_rings(const SequenceExtent& sequence, std::span<const Share> shares,
                             const Goal& goal) {
  std::vector<Piece> pieces = RingSearch(sequence, shares, goal).run();
  // With many tokens a ring the first search is within a hair of its shares.
  constexpr int64_t kFewTokens = 40;
  if (shares.size() < 2 || sequence.extend > kFewTokens * static_cast<int64_t>(shares.size()))
    return pieces;
  double most = largest_excess(pieces, shares, goal);
  constexpr double kGoodEnough = 0.005;
  if (most > kGoodEnough) {
    std::vector<Piece> tiers = cut_tiers(sequence, shares);
    if (const double excess = largest_excess(tiers, shares, goal); excess < most) {
      pieces = std::move(tiers);
      most = excess;
    }
  }
  if (most > kGoodEnough)
    if (auto tight = TightRings(sequence, shares, goal).run(most)) return *std::move(tight);
  return pieces;
}

}  // namespace longhaul::layout
