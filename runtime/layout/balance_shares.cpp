#include "runtime/layout/balance_shares.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/layout/balance_rings.h"

namespace longhaul::layout {
namespace {

double sequence_area(const SequenceExtent& s) {
  return Block{s.prefix, s.extend}.area();
}

std::vector<size_t> non_empty(const Assignment& assignment) {
  std::vector<size_t> order;
  for (size_t s = 0; s < assignment.sequences.size(); ++s)
    if (assignment.sequences[s].extend > 0) order.push_back(s);
  return order;
}

// Missing area and tokens of each rank, so that `rest_area` and `rest_tokens` fill all up to one
// level. Ranks that single sequences already lift above the level want nothing.
struct Missing {
  std::vector<double> area, tokens;
};

std::vector<double> fill_to_level(const std::vector<double>& load, double rest) {
  std::vector<double> sorted = load;
  std::sort(sorted.begin(), sorted.end());
  double below = 0, level = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    below += sorted[i];
    level = (below + rest) / static_cast<double>(i + 1);
    if (i + 1 == sorted.size() || level <= sorted[i + 1]) break;
  }
  std::vector<double> missing(load.size());
  for (size_t r = 0; r < load.size(); ++r) missing[r] = std::max(0.0, level - load[r]);
  return missing;
}

Missing missing(const Assignment& assignment, double rest_area, double rest_tokens) {
  const std::vector<double> tokens(assignment.tokens.begin(), assignment.tokens.end());
  return {fill_to_level(assignment.area, rest_area), fill_to_level(tokens, rest_tokens)};
}

// The shares of one sequence that is being handed out.
struct Supply {
  size_t sequence = 0;
  double density = 0;  // area a token
  double tokens = 0;   // not handed out yet
  std::vector<Share> shares;

  void take(int rank, double count) {
    if (count <= 0) return;
    tokens -= count;
    if (!shares.empty() && shares.back().rank == rank) {
      shares.back().area += count * density;
      shares.back().tokens += count;
    } else {
      shares.push_back({rank, count * density, count, 0});
    }
  }
};

// Gives a rank its missing area and tokens from the densest and the least dense supplies left:
// that keeps long sequences on few ranks. Where both cannot be met, area is.
class Mixer {
 public:
  explicit Mixer(std::vector<Supply>& supplies) : supplies_(supplies), last_(supplies.size()) {}

  void serve(int rank, double area, double tokens) {
    const double tiny = 1e-9 * area;
    while (area > tiny && first_ < last_) {
      Supply& dense = supplies_[first_];
      Supply& light = supplies_[last_ - 1];
      const double wish = tokens > 0 ? area / tokens : dense.density;
      double from_dense = 0, from_light = 0;
      if (first_ + 1 == last_ || wish >= dense.density) {
        from_dense = area / dense.density;
      } else if (wish <= light.density) {
        from_light = area / light.density;
      } else {
        from_dense = (area - tokens * light.density) / (dense.density - light.density);
        from_light = tokens - from_dense;
      }
      // Remainders of less than a fraction of a token are not worth a piece.
      double part = 1;
      if (from_dense > dense.tokens - kCrumb) part = std::min(part, dense.tokens / from_dense);
      if (from_light > light.tokens - kCrumb) part = std::min(part, light.tokens / from_light);
      dense.take(rank, part * from_dense);
      if (from_light > 0) light.take(rank, part * from_light);
      area -= part * (from_dense * dense.density + from_light * light.density);
      tokens -= part * (from_dense + from_light);
      if (first_ + 1 < last_ && light.tokens < kCrumb) --last_;
      if (dense.tokens < kCrumb) ++first_;
    }
  }

  // What rounding left over goes where the sequence is already.
  void finish() {
    for (Supply& supply : supplies_) {
      if (supply.shares.empty()) supply.shares.push_back({0, 0, 0, 0});
      Share& last = supply.shares.back();
      last.area += supply.tokens * supply.density;
      last.tokens += supply.tokens;
      supply.tokens = 0;
    }
  }

 private:
  static constexpr double kCrumb = 0.25;
  std::vector<Supply>& supplies_;
  size_t first_ = 0, last_;
};

// Cuts the supplies one after another; a rank's rounding error in one is made good in its next.
void cut_supplies(Assignment& assignment, const Goal& goal, std::vector<Supply>& supplies) {
  const size_t ranks = static_cast<size_t>(assignment.cp);
  std::vector<double> area_error(ranks, 0), token_error(ranks, 0), later(ranks, 0);
  for (const Supply& supply : supplies)
    for (const Share& share : supply.shares) later[static_cast<size_t>(share.rank)] += share.tokens;
  // The coarsest tokens first: what comes last corrects best.
  std::stable_sort(supplies.begin(), supplies.end(), [&](const Supply& a, const Supply& b) {
    const SequenceExtent& x = assignment.sequences[a.sequence];
    const SequenceExtent& y = assignment.sequences[b.sequence];
    return x.prefix + x.extend > y.prefix + y.extend;
  });
  for (Supply& supply : supplies) {
    const SequenceExtent& sequence = assignment.sequences[supply.sequence];
    std::vector<Share> shares = supply.shares;
    for (Share& share : shares) {
      const size_t r = static_cast<size_t>(share.rank);
      later[r] -= share.tokens;
      share.area = std::max(0.0, share.area + area_error[r]);
      share.tokens = std::max(0.0, share.tokens + token_error[r]);
      share.token_cap = std::floor(goal.token_limit * goal.mean_tokens + 1e-9) -
                        static_cast<double>(assignment.tokens[r]) - later[r];
    }
    // Outer rings can have any density, inner ones only the middle's: the odd shares go outside.
    // Otherwise ranks take turns, so that not always the same one holds the last token.
    const int turn = static_cast<int>(supply.sequence % ranks);
    const double density = supply.density;
    std::stable_sort(shares.begin(), shares.end(), [&](const Share& a, const Share& b) {
      const double odd_a = std::abs(a.area - a.tokens * density);
      const double odd_b = std::abs(b.area - b.tokens * density);
      if (std::abs(odd_a - odd_b) > 1e-3 * goal.mean_area) return odd_a > odd_b;
      const int cp = assignment.cp;
      return (a.rank + cp - turn) % cp < (b.rank + cp - turn) % cp;
    });
    const std::vector<Piece> pieces = cut_rings(sequence, shares, goal);
    for (const Share& share : supply.shares) {
      area_error[static_cast<size_t>(share.rank)] += share.area;
      token_error[static_cast<size_t>(share.rank)] += share.tokens;
    }
    for (const Piece& piece : pieces) {
      area_error[static_cast<size_t>(piece.rank)] -= piece.area();
      token_error[static_cast<size_t>(piece.rank)] -= static_cast<double>(piece.length);
    }
    assignment.assign(supply.sequence, pieces);
  }
}

// Places a sequence whole on the rank that it fills least. False, and nothing is done, when that
// would lift the rank above its share and `always` is not set.
bool place_whole(Assignment& assignment, const Goal& goal, size_t s, bool always) {
  const SequenceExtent& sequence = assignment.sequences[s];
  const double area = sequence_area(sequence), tokens = static_cast<double>(sequence.extend);
  int best = -1;
  double best_fill = 0;
  for (int r = 0; r < assignment.cp; ++r) {
    const size_t i = static_cast<size_t>(r);
    const double by_area = (assignment.area[i] + area) / goal.mean_area;
    const double by_tokens =
        (static_cast<double>(assignment.tokens[i]) + tokens) / goal.mean_tokens;
    // A token that cannot be cut goes by area; tokens only break ties.
    const double fill = always ? by_area + 1e-6 * by_tokens : std::max(by_area, by_tokens);
    if (best < 0 || fill < best_fill) {
      best = r;
      best_fill = fill;
    }
  }
  constexpr double kOverfill = 1.003;
  if (!always && best_fill > kOverfill) return false;
  const Piece whole{sequence.prefix, sequence.extend, best};
  assignment.assign(s, {&whole, 1});
  return true;
}

}  // namespace

double fill_of(const SequenceExtent& sequence, const Goal& goal) {
  return std::max(sequence_area(sequence) / goal.mean_area,
                  static_cast<double>(sequence.extend) / goal.mean_tokens);
}

void assign_zigzag(Assignment& assignment) {
  const int64_t n = 2 * int64_t{assignment.cp};
  std::vector<Piece> pieces(static_cast<size_t>(n));
  for (size_t s : non_empty(assignment)) {
    const SequenceExtent& q = assignment.sequences[s];
    int64_t position = q.prefix;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t length = q.extend / n + (i < q.extend % n ? 1 : 0);
      pieces[static_cast<size_t>(i)] = {position, length,
                                        static_cast<int>(i < assignment.cp ? i : n - 1 - i)};
      position += length;
    }
    assignment.assign(s, pieces);
  }
}

void assign_sparsely(Assignment& assignment, const Goal& goal, double whole_below) {
  std::vector<size_t> order = non_empty(assignment);
  std::vector<double> fills(assignment.sequences.size());
  for (size_t s : order) fills[s] = fill_of(assignment.sequences[s], goal);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return fills[a] > fills[b]; });
  std::vector<Supply> supplies;
  double rest_area = 0, rest_tokens = 0;
  for (size_t s : order) {
    const SequenceExtent& q = assignment.sequences[s];
    if (q.extend == 1) {
      place_whole(assignment, goal, s, true);
      continue;
    }
    if (fills[s] <= whole_below && place_whole(assignment, goal, s, false)) continue;
    const double tokens = static_cast<double>(q.extend), area = sequence_area(q);
    supplies.push_back({s, area / tokens, tokens, {}});
    rest_area += area;
    rest_tokens += tokens;
  }
  if (supplies.empty()) return;
  const Missing wish = missing(assignment, rest_area, rest_tokens);
  std::stable_sort(supplies.begin(), supplies.end(),
                   [](const Supply& a, const Supply& b) { return a.density > b.density; });
  // Ranks that need an unusual mix choose first.
  const double usual = rest_area / rest_tokens;
  std::vector<size_t> ranks(static_cast<size_t>(assignment.cp));
  std::iota(ranks.begin(), ranks.end(), size_t{0});
  std::stable_sort(ranks.begin(), ranks.end(), [&](size_t a, size_t b) {
    return std::abs(wish.area[a] - wish.tokens[a] * usual) >
           std::abs(wish.area[b] - wish.tokens[b] * usual) + 1e-9 * goal.mean_area;
  });
  Mixer mixer(supplies);
  for (size_t r : ranks) mixer.serve(static_cast<int>(r), wish.area[r], wish.tokens[r]);
  mixer.finish();
  cut_supplies(assignment, goal, supplies);
}

void assign_evenly(Assignment& assignment, const Goal& goal) {
  std::vector<Supply> supplies;
  for (size_t s : non_empty(assignment)) {
    const SequenceExtent& q = assignment.sequences[s];
    const double tokens = static_cast<double>(q.extend), area = sequence_area(q);
    Supply supply{s, area / tokens, tokens, {}};
    for (int r = 0; r < assignment.cp; ++r)
      supply.shares.push_back({r, area / assignment.cp, tokens / assignment.cp, 0});
    supplies.push_back(std::move(supply));
  }
  cut_supplies(assignment, goal, supplies);
}

void assign_single_tokens(Assignment& assignment, const Goal& goal) {
  const size_t ranks = static_cast<size_t>(assignment.cp);
  struct Head {
    int64_t next = 0;         // one past the largest token not yet placed
    std::vector<int> owner;   // of the placed tokens, from the highest down
    std::vector<int> blocks;  // [cp]
  };
  std::vector<Head> heads(assignment.sequences.size());
  std::vector<std::pair<int64_t, size_t>> heap;
  for (size_t s : non_empty(assignment)) {
    heads[s].next = assignment.sequences[s].prefix + assignment.sequences[s].extend;
    heads[s].blocks.resize(ranks, 0);
    heap.emplace_back(heads[s].next, s);
  }
  std::make_heap(heap.begin(), heap.end());
  std::vector<double> area(ranks, 0), tokens(ranks, 0);
  const double cap = std::floor(goal.token_limit * goal.mean_tokens + 1e-9);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const size_t s = heap.back().second;
    Head& head = heads[s];
    const int above = head.owner.empty() ? -1 : head.owner.back();
    int best = above;  // always allowed: its block just grows
    auto order = [&](int r) {
      const size_t i = static_cast<size_t>(r);
      return area[i] + (tokens[i] + 1 > cap ? goal.mean_area * 1e3 : 0);
    };
    for (int r = 0; r < assignment.cp; ++r) {
      if (r != above && head.blocks[static_cast<size_t>(r)] == 2) continue;
      if (best < 0 || order(r) < order(best)) best = r;
    }
    const size_t b = static_cast<size_t>(best);
    if (best != above) ++head.blocks[b];
    head.owner.push_back(best);
    area[b] += static_cast<double>(head.next);
    tokens[b] += 1;
    --head.next;
    if (head.next > assignment.sequences[s].prefix) {
      heap.back() = {head.next, s};
      std::push_heap(heap.begin(), heap.end());
    } else {
      heap.pop_back();
    }
  }
  for (size_t s = 0; s < heads.size(); ++s) {
    std::vector<Piece> pieces;
    for (size_t i = heads[s].owner.size(); i-- > 0;)
      pieces.push_back(
          {assignment.sequences[s].prefix + static_cast<int64_t>(heads[s].owner.size() - 1 - i), 1,
           heads[s].owner[i]});
    assignment.assign(s, pieces);
  }
}

}  // namespace longhaul::layout
