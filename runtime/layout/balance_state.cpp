#include "runtime/layout/balance_state.h"

#include <algorithm>

namespace longhaul::layout {

double zigzag_token_imbalance(int cp, std::span<const SequenceExtent> sequences) {
  const int64_t n = 2 * int64_t{cp};
  // extra[i]: sequences whose block i is one token longer, as differences.
  std::vector<int64_t> extra(static_cast<size_t>(n) + 1, 0);
  int64_t base = 0, total = 0;
  for (const SequenceExtent& s : sequences) {
    base += s.extend / n;
    total += s.extend;
    ++extra[0];
    --extra[static_cast<size_t>(s.extend % n)];
  }
  if (total == 0) return 1;
  for (size_t i = 1; i < extra.size(); ++i) extra[i] += extra[i - 1];
  int64_t most = 0;
  for (int64_t r = 0; r < cp; ++r)
    most = std::max(
        most, 2 * base + extra[static_cast<size_t>(r)] + extra[static_cast<size_t>(n - 1 - r)]);
  return static_cast<double>(most) * cp / static_cast<double>(total);
}

Goal promised_goal(int cp, std::span<const SequenceExtent> sequences) {
  Goal goal;
  for (const SequenceExtent& s : sequences) {
    goal.mean_area += Block{s.prefix, s.extend}.area() / cp;
    goal.mean_tokens += static_cast<double>(s.extend) / cp;
  }
  constexpr double kRounding = 1 + 1e-12;
  goal.area_limit = std::max(1.02, area_imbalance_lower_bound(cp, sequences) * kRounding);
  goal.token_limit = std::max(1.02, zigzag_token_imbalance(cp, sequences) * kRounding);
  return goal;
}

Goal inner_goal(const Goal& promised) {
  Goal goal = promised;
  if (goal.area_limit <= 1.02) goal.area_limit = 1.01;
  if (goal.token_limit <= 1.02) goal.token_limit = 1.015;
  return goal;
}

void Assignment::assign(size_t sequence, std::span<const Piece> given) {
  std::vector<Piece>& own = pieces[sequence];
  for (const Piece& piece : own) add_load(piece.rank, -piece.area(), -piece.length);
  own.clear();
  for (const Piece& piece : given) {
    if (piece.length == 0) continue;
    if (!own.empty() && own.back().rank == piece.rank)
      own.back().length += piece.length;
    else
      own.push_back(piece);
    add_load(piece.rank, piece.area(), piece.length);
  }
}

Excess excess(const Assignment& assignment, const Goal& goal) {
  const double most_area = *std::max_element(assignment.area.begin(), assignment.area.end());
  const auto most_tokens =
      static_cast<double>(*std::max_element(assignment.tokens.begin(), assignment.tokens.end()));
  return {std::max(0.0, most_area / goal.mean_area - goal.area_limit),
          std::max(0.0, most_tokens / goal.mean_tokens - goal.token_limit)};
}

}  // namespace longhaul::layout
