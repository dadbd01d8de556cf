#pragma once
// What KV each rank must receive before its queries can be answered: pure data.
//
// A rank needs of every sequence the positions below the largest kv_len of its own queries, less
// what it stores itself; a rank without queries of a sequence needs nothing of it. So a sequence
// that lives whole on one rank moves nothing, and zigzag's causally useless quarter stays home.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/layout/batch_layout.h"
#include "runtime/layout/kv_ownership.h"

namespace longhaul::layout {

// Tokens of one sequence that travel together, in the order of the message.
struct KvPiece {
  int sequence = 0;
  int64_t position = 0;  // absolute, of the first token
  int64_t length = 0;
  int64_t slot = 0;  // at the sender
  int64_t row = 0;   // row in the receive buffer (recv) or in the send buffer (send)
  bool operator==(const KvPiece&) const = default;
};

struct ExchangePlan {
  int cp = 1;
  int cp_rank = 0;
  std::vector<std::vector<KvPiece>> send;  // [cp] to each rank; own entry empty
  std::vector<std::vector<KvPiece>> recv;  // [cp] from each rank; own entry empty
  std::vector<int64_t> send_rows;          // [cp] tokens to each rank
  std::vector<int64_t> recv_rows;          // [cp] tokens from each rank; buffers are rank-major
  int64_t total_send_rows = 0;
  int64_t total_recv_rows = 0;
};

// `ownership` must already contain the step's new tokens (append(layout) was called).
ExchangePlan make_exchange_plan(const BatchLayout& layout, const KvOwnership& ownership,
                                int cp_rank);

// [cp] total_recv_rows of every rank's plan, without making the plans.
std::vector<int64_t> exchange_recv_rows(const BatchLayout& layout, const KvOwnership& ownership);

}  // namespace longhaul::layout
