#pragma once
// A GatherPlan made ready: checked, sorted, merged, counted. Pure host code.

#include <cstdint>
#include <vector>

#include "comm/cuda/gather.h"
#include "comm/cuda/peer_kernels.h"

namespace longhaul::comm::cuda {

struct ReadyPlan {
  // As in GatherPlan: sorted by offset, empty segments dropped, adjacent ones merged. Both ends of
  // a transfer come to the same list.
  std::vector<std::vector<Segment>> send, recv;
  std::vector<int64_t> send_bytes, recv_bytes;  // [size]
  int64_t total_send = 0, total_recv = 0;
  int64_t end = 0;  // no segment reaches beyond this offset
};

// Throws Error(internal) for lists of another number of ranks, segments that overlap or are
// negative, and segments for the rank itself.
ReadyPlan make_ready(GatherPlan plan, int rank, int size);

// The bytes of the segments, packed one behind the other: offset of rank r's part in a packed area.
std::vector<int64_t> packed_offsets(const std::vector<int64_t>& bytes);  // [size + 1]

// Pieces of at most `piece_bytes` for a kernel's blocks, the peers in turn so that all links are
// busy at once.
std::vector<PushPiece> cut_pieces(const ReadyPlan& plan, int rank, int32_t piece_bytes);

}  // namespace longhaul::comm::cuda
