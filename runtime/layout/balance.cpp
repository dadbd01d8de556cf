#include "runtime/layout/balance.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "runtime/core/check.h"
#include "runtime/layout/balance_anneal.h"
#include "runtime/layout/balance_search.h"
#include "runtime/layout/balance_shares.h"
#include "runtime/layout/balance_state.h"

namespace longhaul::layout {
namespace {

constexpr int64_t kPage = 64;             // tokens of a KV page
constexpr double kPageLimit = 1.005;      // imbalance that page borders may cost
constexpr int64_t kQuickBudget = 20'000;  // moves weighed after each construction
// Steps of the random walk from the best when none was good enough.
constexpr int64_t kWalkSteps = 24'000;
// Batches of at most so many tokens a rank are also tried token by token.
constexpr double kFewTokens = 48;

class Solver {
 public:
  Solver(int cp, std::span<const SequenceExtent> sequences)
      : cp_(cp), sequences_(sequences), promised_(promised_goal(cp, sequences)) {}

  const Goal& promised() const { return promised_; }

  Assignment run() {
    Goal goal = inner_goal(promised_);
    try_all(goal);
    if (!missed_.none()) walk(promised_);
    // Area decides: where it cannot be met with even tokens, allow less even ones.
    for (double relax : {1.3, 2.0, 4.0}) {
      if (missed_.area <= 0) break;
      goal.token_limit = promised_.token_limit * relax;
      try_few(goal);
      goal.area_limit = promised_.area_limit;
      if (missed_.area > 0) walk(goal);
    }
    return std::move(*best_);
  }

 private:
  // The constructions in order, until one is good enough.
  void try_all(const Goal& goal) {
    size_t whole = sequences_.size() + 1;
    for (double whole_below : {1.003, 0.5, 0.2, 0.05, 0.01, 0.0}) {
      const size_t small = count_small(whole_below);
      if (small == whole) continue;  // the same construction again
      whole = small;
      if (attempt(goal, [&](Assignment& a) { assign_sparsely(a, goal, whole_below); })) return;
    }
    if (goal.mean_tokens <= kFewTokens)
      if (attempt(goal, [&](Assignment& a) { assign_single_tokens(a, goal); })) return;
    if (sequences_.size() > 1)
      if (attempt(goal, [&](Assignment& a) { assign_evenly(a, goal); })) return;
    if (missed_.none()) return;
    attempt(goal, [&](Assignment& a) { assign_zigzag(a); });
  }

  void try_few(const Goal& goal) {
    attempt(goal, [&](Assignment& a) { assign_sparsely(a, goal, 1.003); });
    if (goal.mean_tokens <= kFewTokens)
      attempt(goal, [&](Assignment& a) { assign_single_tokens(a, goal); });
  }

  // True when `goal` is met.
  template <class Construct>
  bool attempt(const Goal& goal, Construct construct) {
    Assignment trial(cp_, sequences_);
    construct(trial);
    if (!excess(trial, goal).none()) improve(trial, goal, kQuickBudget);
    const Excess missed = excess(trial, promised_), inner = excess(trial, goal);
    if (!best_ || missed.better_than(missed_) ||
        (!missed_.better_than(missed) && inner.better_than(inner_))) {
      best_ = std::move(trial);
      missed_ = missed;
      inner_ = inner;
    }
    return inner_.none();
  }

  void walk(const Goal& goal) {
    attempt(goal, [&](Assignment& a) {
      a = *best_;
      anneal(a, goal, kWalkSteps, ++num_walks_);
    });
  }

  size_t count_small(double whole_below) const {
    return static_cast<size_t>(std::count_if(
        sequences_.begin(), sequences_.end(),
        [&](const SequenceExtent& s) { return fill_of(s, promised_) <= whole_below; }));
  }

  int cp_;
  std::span<const SequenceExtent> sequences_;
  Goal promised_;
  std::optional<Assignment> best_;
  uint64_t num_walks_ = 0;
  Excess missed_, inner_;  // of the best, against the promise and the goal it was made for
};

// Which rank takes whose share: the fullest share goes to the rank that stores the least so far.
std::vector<size_t> relabel(const Assignment& assignment, const RankLoad* load) {
  std::vector<size_t> label(assignment.area.size());
  std::iota(label.begin(), label.end(), size_t{0});
  if (load == nullptr) return label;
  std::vector<size_t> shares = label, ranks = label;
  std::stable_sort(shares.begin(), shares.end(), [&](size_t a, size_t b) {
    if (assignment.tokens[a] != assignment.tokens[b])
      return assignment.tokens[a] > assignment.tokens[b];
    return assignment.area[a] > assignment.area[b];
  });
  std::stable_sort(ranks.begin(), ranks.end(), [&](size_t a, size_t b) {
    if (load->tokens[a] != load->tokens[b]) return load->tokens[a] < load->tokens[b];
    return load->area[a] < load->area[b];
  });
  for (size_t i = 0; i < ranks.size(); ++i) label[shares[i]] = ranks[i];
  return label;
}

}  // namespace

std::vector<Block> balanced_blocks(int cp, std::span<const SequenceExtent> sequences,
                                   const RankLoad* load) {
  const size_t ranks = static_cast<size_t>(cp), bs = sequences.size();
  std::vector<Block> blocks(ranks * 2 * bs);
  int64_t total = 0;
  for (size_t s = 0; s < bs; ++s) {
    total += sequences[s].extend;
    for (size_t i = 0; i < 2 * ranks; ++i)
      blocks[i * bs + s] = {sequences[s].prefix + sequences[s].extend, 0};
  }
  if (total == 0) return blocks;
  Solver solver(cp, sequences);
  Assignment assignment = solver.run();
  align_to_pages(assignment, solver.promised(), kPage, kPageLimit);
  const std::vector<size_t> label = relabel(assignment, load);
  for (size_t s = 0; s < bs; ++s) {
    for (const Piece& piece : assignment.pieces[s]) {
      Block* prev = &blocks[label[static_cast<size_t>(piece.rank)] * 2 * bs + s];
      Block* next = prev + bs;
      LH_CHECK(next->length == 0, "sequence {}: a third block on rank {}", s, piece.rank);
      *(prev->length == 0 ? prev : next) = {piece.start, piece.length};
    }
  }
  return blocks;
}

}  // namespace longhaul::layout
