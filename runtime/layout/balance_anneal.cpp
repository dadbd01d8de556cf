#include "runtime/layout/balance_anneal.h"

#include <algorithm>
#include <vector>

namespace longhaul::layout {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  uint64_t roll(uint64_t sides) {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(z) * sides) >> 64);
  }

 private:
  uint64_t state_;
};

class Walk {
 public:
  Walk(Assignment& assignment, const Goal& goal, uint64_t seed)
      : a_(assignment), goal_(goal), dice_(seed) {
    for (size_t s = 0; s < a_.sequences.size(); ++s) add_slots(s);
    double largest = 0;
    for (const SequenceExtent& s : a_.sequences)
      if (s.extend > 1) largest = std::max(largest, static_cast<double>(s.prefix + s.extend));
    grain_ = largest / goal.mean_area;
  }

  void run(int64_t steps) {
    if (slots_.empty()) return;
    // A hot walk finds its way in tiny batches, cool ones polish larger ones.
    for (double heat : {1.0, 0.3, 0.03}) walk(steps / 3, heat * grain_ * grain_);
  }

  // Walks from the assignment and writes back the best place met, if better than the start.
  void walk(int64_t steps, double first_threshold) {
    area_ = a_.area;
    tokens_.assign(a_.tokens.begin(), a_.tokens.end());
    const std::vector<Piece> start = slots_;
    std::vector<Piece> best = slots_;
    double now = missed(), least = now;
    const double before = now;
    for (int64_t i = 0; i < steps && least > 0; ++i) {
      const double part = 1 - static_cast<double>(i) / static_cast<double>(steps);
      const double threshold = first_threshold * part * part;
      if (!(dice_.roll(4) == 0 ? swap(threshold) : shift(threshold))) continue;
      now = missed_after_step(now);
      if (now < least) {
        least = now;
        best = slots_;
      }
    }
    slots_ = least < before ? best : start;
    if (least < before) write_back(best);
  }

 private:
  // Slots of a sequence: its pieces and empty ones, so that each rank has two to grow.
  void add_slots(size_t s) {
    if (a_.sequences[s].extend < 2) return;
    const size_t first = slots_.size(), most = 2 * static_cast<size_t>(a_.cp);
    std::vector<int> have(static_cast<size_t>(a_.cp), 0);
    for (const Piece& piece : a_.pieces[s]) ++have[static_cast<size_t>(piece.rank)];
    std::vector<int> spare;
    for (int r = 0; r < a_.cp; ++r)
      for (int i = have[static_cast<size_t>(r)]; i < 2; ++i) spare.push_back(r);
    // Empty slots are spread evenly between the pieces.
    size_t used = 0;
    for (size_t k = 0; k < a_.pieces[s].size(); ++k) {
      const Piece& piece = a_.pieces[s][k];
      slots_.push_back(piece);
      const size_t upto = spare.size() * (k + 1) / a_.pieces[s].size();
      for (; used < upto; ++used) slots_.push_back({piece.start + piece.length, 0, spare[used]});
    }
    sequences_.push_back({s, first, most});
    for (size_t k = first; k + 1 < first + most; ++k) borders_.push_back(k);
  }

  double cost(double area, double tokens) const {
    const double x = area / goal_.mean_area - 1;
    const double over = std::max(0.0, x + 1 - goal_.area_limit);
    const double token_over = std::max(0.0, tokens / goal_.mean_tokens - goal_.token_limit);
    return x * x + 20 * over * over + 5 * token_over * token_over;
  }

  // Takes the transfer between two ranks unless it worsens the potential by more than allowed.
  bool transfer(int from, int to, double area, double tokens, double threshold) {
    const size_t f = static_cast<size_t>(from), t = static_cast<size_t>(to);
    const double change = cost(area_[f] - area, tokens_[f] - tokens) - cost(area_[f], tokens_[f]) +
                          cost(area_[t] + area, tokens_[t] + tokens) - cost(area_[t], tokens_[t]);
    if (change > threshold) return false;
    area_[f] -= area;
    area_[t] += area;
    tokens_[f] -= tokens;
    tokens_[t] += tokens;
    touched_[0] = f;
    touched_[1] = t;
    return true;
  }

  bool shift(double threshold) {
    const size_t k = borders_[dice_.roll(borders_.size())];
    Piece& left = slots_[k];
    Piece& right = slots_[k + 1];
    const bool up = dice_.roll(2) == 0;
    Piece& giver = up ? right : left;
    Piece& taker = up ? left : right;
    if (giver.length == 0) return false;
    const int64_t most = std::min<int64_t>(giver.length, 4);
    const auto count = 1 + static_cast<int64_t>(dice_.roll(static_cast<uint64_t>(most)));
    const int64_t start = up ? right.start : right.start - count;
    if (giver.rank != taker.rank && !transfer(giver.rank, taker.rank, Block{start, count}.area(),
                                              static_cast<double>(count), threshold))
      return false;
    giver.length -= count;
    taker.length += count;
    right.start += up ? count : -count;
    return giver.rank != taker.rank;
  }

  bool swap(double threshold) {
    const Sequence& q = sequences_[dice_.roll(sequences_.size())];
    Piece& a = slots_[q.first + dice_.roll(q.count)];
    Piece& b = slots_[q.first + dice_.roll(q.count)];
    if (a.rank == b.rank) return false;
    if (!transfer(a.rank, b.rank, a.area() - b.area(), static_cast<double>(a.length - b.length),
                  threshold))
      return false;
    std::swap(a.rank, b.rank);
    return true;
  }

  double missed_of(size_t rank) const {
    return std::max(0.0, area_[rank] / goal_.mean_area - goal_.area_limit) +
           std::max(0.0, tokens_[rank] / goal_.mean_tokens - goal_.token_limit);
  }
  double missed() const {
    double most = 0;
    for (size_t r = 0; r < area_.size(); ++r) most = std::max(most, missed_of(r));
    return most;
  }
  // Only a step that leaves both its ranks below the worst can have lowered the worst.
  double missed_after_step(double last) const {
    const double here = std::max(missed_of(touched_[0]), missed_of(touched_[1]));
    return here >= last ? here : missed();
  }

  void write_back(const std::vector<Piece>& slots) {
    for (const Sequence& q : sequences_)
      a_.assign(q.index, std::span(slots).subspan(q.first, q.count));
  }

  struct Sequence {
    size_t index, first, count;  // slots [first, first + count)
  };
  Assignment& a_;
  const Goal& goal_;
  Dice dice_;
  std::vector<Piece> slots_;
  std::vector<Sequence> sequences_;
  std::vector<size_t> borders_;  // left slots of all borders
  std::vector<double> area_, tokens_;
  size_t touched_[2] = {0, 0};
  double grain_ = 0;
};

}  // namespace

void anneal(Assignment& assignment, const Goal& goal, int64_t steps, uint64_t seed) {
  Walk(assignment, goal, seed).run(steps);
}

}  // namespace longhaul::layout
