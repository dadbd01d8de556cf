#include "runtime/layout/exchange_plan.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace longhaul::layout {
namespace {

// Positions of `sequence` below the result are what the rank's queries see.
int64_t needed_length(const BatchLayout& layout, int cp_rank, int sequence) {
  int64_t needed = 0;
  for (Half half : {Half::prev, Half::next}) {
    const Block& block = layout.block(cp_rank, half, sequence);
    if (block.length > 0) needed = std::max(needed, block.end());
  }
  return needed;
}

// What travels from `from` to `to`, in message order: by sequence, then by position. Sender and
// receiver both derive their side from here, so they cannot disagree. Returns the rows.
int64_t append_pieces(const BatchLayout& layout, const KvOwnership& ownership, int from, int to,
                      int64_t first_row, std::vector<KvPiece>& pieces) {
  int64_t row = first_row;
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const int64_t needed = needed_length(layout, to, s);
    if (needed == 0) continue;
    for (const KvRun& run : ownership.runs(from, s)) {
      if (run.position >= needed) break;
      const int64_t length = std::min(run.length, needed - run.position);
      pieces.push_back({s, run.position, length, run.slot, row});
      row += length;
    }
  }
  return row - first_row;
}

}  // namespace

ExchangePlan make_exchange_plan(const BatchLayout& layout, const KvOwnership& ownership,
                                int cp_rank) {
  const int cp = layout.cp();
  LH_CHECK(cp_rank >= 0 && cp_rank < cp, "cp rank {} of {}", cp_rank, cp);
  LH_CHECK(ownership.cp() == cp && ownership.num_sequences() == layout.num_sequences(),
           "layout of cp {} and {} sequences, ownership of cp {} and {}", cp,
           layout.num_sequences(), ownership.cp(), ownership.num_sequences());
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const SequenceExtent& sequence = layout.sequences()[static_cast<size_t>(s)];
    LH_CHECK(ownership.length(s) == sequence.prefix + sequence.extend,
             "sequence {}: {} tokens booked, prefix {} and {} new ones", s, ownership.length(s),
             sequence.prefix, sequence.extend);
  }
  const size_t ranks = static_cast<size_t>(cp);
  ExchangePlan plan;
  plan.cp = cp;
  plan.cp_rank = cp_rank;
  plan.send.resize(ranks);
  plan.recv.resize(ranks);
  plan.send_rows.resize(ranks, 0);
  plan.recv_rows.resize(ranks, 0);
  for (int peer = 0; peer < cp; ++peer) {
    if (peer == cp_rank) continue;
    const size_t p = static_cast<size_t>(peer);
    plan.send_rows[p] =
        append_pieces(layout, ownership, cp_rank, peer, plan.total_send_rows, plan.send[p]);
    plan.recv_rows[p] =
        append_pieces(layout, ownership, peer, cp_rank, plan.total_recv_rows, plan.recv[p]);
    plan.total_send_rows += plan.send_rows[p];
    plan.total_recv_rows += plan.recv_rows[p];
  }
  return plan;
}

std::vector<int64_t> exchange_recv_rows(const BatchLayout& layout, const KvOwnership& ownership) {
  std::vector<int64_t> rows(static_cast<size_t>(layout.cp()), 0);
  for (int r = 0; r < layout.cp(); ++r) {
    for (int s = 0; s < layout.num_sequences(); ++s) {
      // Every position is stored by exactly one rank: what is needed and not here is received.
      const int64_t needed = needed_length(layout, r, s);
      int64_t here = 0;
      for (const KvRun& run : ownership.runs(r, s)) {
        if (run.position >= needed) break;
        here += std::min(run.length, needed - run.position);
      }
      rows[static_cast<size_t>(r)] += needed - here;
    }
  }
  return rows;
}

}  // namespace longhaul::layout
