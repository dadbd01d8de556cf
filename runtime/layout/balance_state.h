#pragma once
// A tentative assignment of a batch to ranks, with running loads. Internal to the balanced layout.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::layout {

// A block and its rank; the pieces of a sequence are kept in token order and never empty.
struct Piece {
  int64_t start = 0;
  int64_t length = 0;
  int rank = 0;
  double area() const { return Block{start, length}.area(); }
};

// What a batch asks of a rank, and how far above is good enough.
struct Goal {
  double mean_area = 0;
  double mean_tokens = 0;
  double area_limit = 1;   // of the mean
  double token_limit = 1;  // of the mean
};
// What the layout promises where it can: area at most 1.02 or the batch's lower bound, tokens at
// most 1.02 or zigzag's.
Goal promised_goal(int cp, std::span<const SequenceExtent> sequences);
// What is aimed at: about half of that, so that moving borders to pages has room.
Goal inner_goal(const Goal& promised);

// zigzag's max over mean of tokens.
double zigzag_token_imbalance(int cp, std::span<const SequenceExtent> sequences);

struct Assignment {
  Assignment(int ranks, std::span<const SequenceExtent> batch)
      : cp(ranks),
        sequences(batch),
        pieces(batch.size()),
        area(static_cast<size_t>(ranks), 0),
        tokens(static_cast<size_t>(ranks), 0) {}

  int cp;
  std::span<const SequenceExtent> sequences;
  std::vector<std::vector<Piece>> pieces;  // [num_sequences]
  std::vector<double> area;                // [cp]
  std::vector<int64_t> tokens;             // [cp]

  void add_load(int rank, double add_area, int64_t add_tokens) {
    area[static_cast<size_t>(rank)] += add_area;
    tokens[static_cast<size_t>(rank)] += add_tokens;
  }
  // Gives a sequence its pieces (empty ones are dropped, neighbours of one rank merged).
  void assign(size_t sequence, std::span<const Piece> given);
};

// How far an assignment is above the goal; {0, 0} is good enough. Area decides, but a tenth of the
// tokens' excess counts with it: it makes no sense to pay any unevenness of tokens for a little
// area.
struct Excess {
  double area = 0;
  double tokens = 0;
  bool none() const { return area <= 0 && tokens <= 0; }
  bool better_than(const Excess& o) const {
    return area + 0.1 * tokens < o.area + 0.1 * o.tokens - 1e-9;
  }
};
Excess excess(const Assignment& assignment, const Goal& goal);

}  // namespace longhaul::layout
