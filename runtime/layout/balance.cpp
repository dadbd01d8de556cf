#include "runtime/layout/balance.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "runtime/core/check.h"
#include "runtime/layout/balance_search.h"
#include "runtime/layout/balance_shares.h"
#include "runtime/layout/balance_state.h"

namespace longhaul::layout {
namespace {

constexpr int64_t kPage = 64;             // tokens of a KV page
constexpr double kPageLimit = 1.005;      // imbalance that page borders may cost
constexpr int64_t kQuickBudget = 60'000;  // moves weighed after each construction
constexpr int64_t kLongBudget = 600'000;  // and on the best when none was good enough
// Batches of at most so many tokens a rank are also tried token by token.
constexpr double kFewTokens = 48;

class Solver {
 public:
  Solver(int cp, std::span<const SequenceExtent> sequences) : cp_(cp), sequences_(sequences) {}

  Assignment run() {
    Goal goal = make_goal(cp_, sequences_);
    goal_ = goal;
    try_all(goal);
    // Area decides: where it cannot be met with even tokens, allow less even ones.
    for (double relax : {1.3, 2.0, 1e9}) {
      if (best_excess_.area <= 0) break;
      goal.token_limit = goal_.token_limit * relax;
      try_all(goal);
    }
    if (!best_excess_.none()) {
      goal.token_limit = goal_.token_limit + best_excess_.tokens;
      improve(*best_, goal, kLongBudget);
    }
    return std::move(*best_);
  }

 private:
  // The constructions in order, until one is good enough.
  void try_all(const Goal& goal) {
    size_t whole = sequences_.size() + 1;
    for (double whole_below : {1.003, 0.5, 0.2, 0.05, 0.01, 0.0}) {
      const size_t small = count_small(goal, whole_below);
      if (small == whole) continue;  // the same construction again
      whole = small;
      if (attempt(goal, [&](Assignment& a) { assign_sparsely(a, goal, whole_below); })) return;
    }
    if (goal.mean_tokens <= kFewTokens)
      if (attempt(goal, [&](Assignment& a) { assign_single_tokens(a, goal); })) return;
    if (sequences_.size() > 1)
      if (attempt(goal, [&](Assignment& a) { assign_evenly(a, goal); })) return;
    attempt(goal, [&](Assignment& a) { assign_zigzag(a); });
  }

  template <class Construct>
  bool attempt(const Goal& goal, Construct construct) {
    Assignment trial(cp_, sequences_);
    construct(trial);
    if (!excess(trial, goal).none()) improve(trial, goal, kQuickBudget);
    const Excess e = excess(trial, goal_);
    if (!best_ || e.better_than(best_excess_)) {
      best_ = std::move(trial);
      best_excess_ = e;
    }
    return best_excess_.none();
  }

  size_t count_small(const Goal& goal, double whole_below) const {
    return static_cast<size_t>(
        std::count_if(sequences_.begin(), sequences_.end(),
                      [&](const SequenceExtent& s) { return fill_of(s, goal) <= whole_below; }));
  }

  int cp_;
  std::span<const SequenceExtent> sequences_;
  Goal goal_;
  std::optional<Assignment> best_;
  Excess best_excess_;
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
  Assignment assignment = Solver(cp, sequences).run();
  align_to_pages(assignment, make_goal(cp, sequences), kPage, kPageLimit);
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
