#include "runtime/layout/balance_search.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace longhaul::layout {
namespace {

// Load that goes from one rank to another.
struct Transfer {
  int from = 0, to = 0;
  double area = 0;
  int64_t tokens = 0;
};

// A change of one sequence's pieces: up to two border shifts, or an end or all of a piece to a
// rank, or two pieces' owners exchanged.
struct Move {
  enum class Kind { none, shift, give_front, give_back, swap } kind = Kind::none;
  size_t sequence = 0;
  size_t piece = 0, other = 0;         // shift: left pieces of the borders; swap: both pieces
  int64_t count = 0, other_count = 0;  // shift: tokens that the left piece gains
  int rank = 0;                        // give: who gets them
};

class Search {
 public:
  Search(Assignment& assignment, const Goal& goal, int64_t budget)
      : a_(assignment), goal_(goal), budget_(budget), sequences_of_(assignment.area.size()) {
    for (size_t s = 0; s < a_.pieces.size(); ++s) enlist(s);
  }

  void run() {
    std::vector<bool> stuck(a_.area.size(), false);
    while (budget_ > 0 && !excess(a_, goal_).none()) {
      const int rank = worst(stuck);
      if (rank < 0) return;
      best_ = {};
      best_gain_ = 1e-12;
      weigh_rank(rank);
      if (best_.kind == Move::Kind::none) {
        stuck[static_cast<size_t>(rank)] = true;
      } else {
        apply();
        std::fill(stuck.begin(), stuck.end(), false);
      }
    }
  }

 private:
  double cost(double area, double tokens) const {
    const double x = area / goal_.mean_area, y = tokens / goal_.mean_tokens;
    const double over = std::max(0.0, x - goal_.area_limit);
    const double token_over = std::max(0.0, y - goal_.token_limit);
    return (x - 1) * (x - 1) + 40 * over * over + 0.02 * (y - 1) * (y - 1) +
           20 * token_over * token_over;
  }

  int worst(const std::vector<bool>& stuck) const {
    int rank = -1;
    double most = 0;
    for (size_t r = 0; r < a_.area.size(); ++r) {
      if (stuck[r]) continue;
      const double c = cost(a_.area[r], static_cast<double>(a_.tokens[r])) +
                       (a_.area[r] > goal_.mean_area ? 1 : 0);
      if (rank < 0 || c > most) {
        rank = static_cast<int>(r);
        most = c;
      }
    }
    return rank;
  }

  // What the potential falls by when the transfers happen; the ranks of both may coincide.
  double gain(std::span<const Transfer> transfers) {
    --budget_;
    std::array<int, 4> ranks{};
    std::array<double, 4> area{}, tokens{};
    size_t n = 0;
    auto book = [&](int rank, double d_area, double d_tokens) {
      size_t i = 0;
      while (i < n && ranks[i] != rank) ++i;
      if (i == n) {
        ranks[n] = rank;
        area[n] = 0;
        tokens[n++] = 0;
      }
      area[i] += d_area;
      tokens[i] += d_tokens;
    };
    for (const Transfer& t : transfers) {
      book(t.from, -t.area, -static_cast<double>(t.tokens));
      book(t.to, t.area, static_cast<double>(t.tokens));
    }
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      const size_t r = static_cast<size_t>(ranks[i]);
      const double now = static_cast<double>(a_.tokens[r]);
      sum += cost(a_.area[r], now) - cost(a_.area[r] + area[i], now + tokens[i]);
    }
    return sum;
  }

  void consider(const Move& move, std::span<const Transfer> transfers) {
    const double g = gain(transfers);
    if (g > best_gain_) {
      best_gain_ = g;
      best_ = move;
    }
  }

  // The border between pieces k and k + 1 moves up by `count` tokens.
  bool shift(size_t s, size_t k, int64_t count, Transfer& transfer) const {
    const Piece& left = a_.pieces[s][k];
    const Piece& right = a_.pieces[s][k + 1];
    if (count == 0 || count > right.length || -count > left.length) return false;
    if (count > 0)
      transfer = {right.rank, left.rank, Block{right.start, count}.area(), count};
    else
      transfer = {left.rank, right.rank, Block{right.start + count, -count}.area(), -count};
    return true;
  }

  int blocks_of(size_t s, int rank) const {
    return static_cast<int>(std::count_if(a_.pieces[s].begin(), a_.pieces[s].end(),
                                          [&](const Piece& p) { return p.rank == rank; }));
  }

  void weigh_rank(int rank) {
    pick_targets(rank);
    for (size_t s : sequences_of_[static_cast<size_t>(rank)]) {
      borders_.clear();
      const std::vector<Piece>& pieces = a_.pieces[s];
      for (size_t k = 0; k < pieces.size(); ++k) {
        const bool mine = pieces[k].rank == rank;
        if (k + 1 < pieces.size() && (mine || pieces[k + 1].rank == rank)) borders_.push_back(k);
        if (mine) weigh_gifts(s, k);
        if (mine) weigh_swaps(s, k);
      }
      weigh_shifts(s, rank);
      if (budget_ <= 0) return;
    }
  }

  // Ranks that may get a new block: the emptiest, by area and by tokens.
  void pick_targets(int rank) {
    targets_.clear();
    auto add_least = [&](auto load) {
      for (int i = 0; i < 3; ++i) {
        int least = -1;
        for (int r = 0; r < a_.cp; ++r) {
          if (r == rank || std::find(targets_.begin(), targets_.end(), r) != targets_.end())
            continue;
          if (least < 0 || load(r) < load(least)) least = r;
        }
        if (least >= 0) targets_.push_back(least);
      }
    };
    add_least([&](int r) { return a_.area[static_cast<size_t>(r)]; });
    add_least([&](int r) { return static_cast<double>(a_.tokens[static_cast<size_t>(r)]); });
  }

  void weigh_gifts(size_t s, size_t k) {
    const Piece& piece = a_.pieces[s][k];
    const double here = a_.area[static_cast<size_t>(piece.rank)];
    for (int target : targets_) {
      if (blocks_of(s, target) >= 2) continue;
      const double there = a_.area[static_cast<size_t>(target)];
      for (const bool front : {true, false}) {
        const double token =
            static_cast<double>(front ? piece.start + 1 : piece.start + piece.length);
        const auto even = static_cast<int64_t>((here - there) / 2 / token);
        const auto down = static_cast<int64_t>((here - goal_.mean_area) / token);
        for (int64_t count : {even, even + 1, down, down + 1, piece.length}) {
          if (count < 1 || count > piece.length) continue;
          const int64_t start = front ? piece.start : piece.start + piece.length - count;
          const Transfer t{piece.rank, target, Block{start, count}.area(), count};
          consider(
              {front ? Move::Kind::give_front : Move::Kind::give_back, s, k, 0, count, 0, target},
              {&t, 1});
        }
      }
    }
  }

  void weigh_swaps(size_t s, size_t k) {
    const std::vector<Piece>& pieces = a_.pieces[s];
    if (pieces.size() > kMostSwaps) return;
    for (size_t o = 0; o < pieces.size(); ++o) {
      if (pieces[o].rank == pieces[k].rank) continue;
      const Transfer t[] = {{pieces[k].rank, pieces[o].rank, pieces[k].area(), pieces[k].length},
                            {pieces[o].rank, pieces[k].rank, pieces[o].area(), pieces[o].length}};
      consider({Move::Kind::swap, s, k, o, 0, 0, 0}, t);
    }
  }

  void weigh_shifts(size_t s, int rank) {
    const double off = a_.area[static_cast<size_t>(rank)] - goal_.mean_area;
    for (size_t b = 0; b < borders_.size(); ++b) {
      const size_t k = borders_[b];
      const double token = static_cast<double>(a_.pieces[s][k + 1].start + 1);
      const auto far = static_cast<int64_t>(std::abs(off) / token);
      for (int64_t d : {far, far + 1, far / 2, int64_t{1}, int64_t{2}, int64_t{3}})
        for (int64_t count : {d, -d}) {
          Transfer t;
          if (shift(s, k, count, t)) consider({Move::Kind::shift, s, k, k, count, 0, 0}, {&t, 1});
        }
      for (size_t c = b + 1; c < borders_.size(); ++c) weigh_double_shift(s, k, borders_[c]);
    }
  }

  void weigh_double_shift(size_t s, size_t k, size_t m) {
    constexpr int64_t kReach = 4;
    for (int64_t x = -kReach; x <= kReach; ++x)
      for (int64_t y = -kReach; y <= kReach; ++y) {
        Transfer t[2];
        if (!shift(s, k, x, t[0]) || !shift(s, m, y, t[1])) continue;
        // A piece between both borders must stay long enough for both.
        if (m == k + 1 && a_.pieces[s][m].length - x + y < 0) continue;
        consider({Move::Kind::shift, s, k, m, x, y, 0}, t);
      }
  }

  void apply() {
    std::vector<Piece> pieces = a_.pieces[best_.sequence];
    auto move_border = [&](size_t k, int64_t count) {
      pieces[k].length += count;
      pieces[k + 1].start += count;
      pieces[k + 1].length -= count;
    };
    switch (best_.kind) {
      case Move::Kind::none:
        return;
      case Move::Kind::shift:
        move_border(best_.piece, best_.count);
        if (best_.other != best_.piece) move_border(best_.other, best_.other_count);
        break;
      case Move::Kind::swap:
        std::swap(pieces[best_.piece].rank, pieces[best_.other].rank);
        break;
      case Move::Kind::give_front:
      case Move::Kind::give_back: {
        const bool front = best_.kind == Move::Kind::give_front;
        Piece& piece = pieces[best_.piece];
        piece.length -= best_.count;
        const Piece gift{front ? piece.start : piece.start + piece.length, best_.count, best_.rank};
        if (front) piece.start += best_.count;
        pieces.insert(pieces.begin() + static_cast<std::ptrdiff_t>(best_.piece + (front ? 0 : 1)),
                      gift);
        break;
      }
    }
    delist(best_.sequence);
    a_.assign(best_.sequence, pieces);
    enlist(best_.sequence);
  }

  void enlist(size_t s) {
    for (const Piece& piece : a_.pieces[s]) {
      std::vector<size_t>& list = sequences_of_[static_cast<size_t>(piece.rank)];
      if (list.empty() || list.back() != s) list.push_back(s);
    }
  }
  void delist(size_t s) {
    for (const Piece& piece : a_.pieces[s])
      std::erase(sequences_of_[static_cast<size_t>(piece.rank)], s);
  }

  static constexpr size_t kMostSwaps = 512;  // pieces of a sequence
  Assignment& a_;
  const Goal& goal_;
  int64_t budget_;
  std::vector<std::vector<size_t>> sequences_of_;  // [cp] with pieces on the rank
  std::vector<size_t> borders_;
  std::vector<int> targets_;
  Move best_;
  double best_gain_ = 0;
};

}  // namespace

void improve(Assignment& assignment, const Goal& goal, int64_t budget) {
  Search(assignment, goal, budget).run();
}

void align_to_pages(Assignment& assignment, const Goal& goal, int64_t page, double limit) {
  const double most_area = std::max(
      limit * goal.mean_area, *std::max_element(assignment.area.begin(), assignment.area.end()));
  const double most_tokens = std::max(
      limit * goal.mean_tokens,
      static_cast<double>(*std::max_element(assignment.tokens.begin(), assignment.tokens.end())));
  for (std::vector<Piece>& pieces : assignment.pieces) {
    for (size_t k = 0; k + 1 < pieces.size(); ++k) {
      Piece& left = pieces[k];
      Piece& right = pieces[k + 1];
      const int64_t past = right.start % page;
      if (past == 0) continue;
      const std::array<int64_t, 2> steps =
          past * 2 <= page ? std::array{-past, page - past} : std::array{page - past, -past};
      for (int64_t step : steps) {
        if (left.length + step <= 0 || right.length - step <= 0) continue;
        const double moved = Block{right.start, step}.area();  // negative when the border falls
        const size_t l = static_cast<size_t>(left.rank), r = static_cast<size_t>(right.rank);
        const size_t gains = step > 0 ? l : r;
        if (assignment.area[gains] + std::abs(moved) > most_area ||
            static_cast<double>(assignment.tokens[gains] + std::abs(step)) > most_tokens)
          continue;
        assignment.add_load(left.rank, moved, step);
        assignment.add_load(right.rank, -moved, -step);
        left.length += step;
        right.start += step;
        right.length -= step;
        break;
      }
    }
  }
}

}  // namespace longhaul::layout
