#include "comm/cuda/gather_plan.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace longhaul::comm::cuda {
namespace {

// Returns the bytes in all.
int64_t make_ready(std::vector<Segment>& segments, int64_t& end) {
  std::erase_if(segments, [](const Segment& s) { return s.bytes == 0; });
  std::sort(segments.begin(), segments.end(),
            [](const Segment& a, const Segment& b) { return a.offset < b.offset; });
  std::vector<Segment> merged;
  int64_t total = 0;
  for (const Segment& s : segments) {
    LH_CHECK(s.offset >= 0 && s.bytes > 0, "segment of {} bytes at {}", s.bytes, s.offset);
    total += s.bytes;
    end = std::max(end, s.offset + s.bytes);
    if (!merged.empty()) {
      Segment& last = merged.back();
      LH_CHECK(last.offset + last.bytes <= s.offset, "segments overlap: {} bytes at {}, next at {}",
               last.bytes, last.offset, s.offset);
      if (last.offset + last.bytes == s.offset) {
        last.bytes += s.bytes;
        continue;
      }
    }
    merged.push_back(s);
  }
  segments = std::move(merged);
  return total;
}

}  // namespace

ReadyPlan make_ready(GatherPlan plan, int rank, int size) {
  const auto n = static_cast<size_t>(size), self = static_cast<size_t>(rank);
  LH_CHECK(plan.send.size() == n && plan.recv.size() == n, "lists for {} and {} ranks of {}",
           plan.send.size(), plan.recv.size(), size);
  LH_CHECK(plan.send[self].empty() && plan.recv[self].empty(), "rank {} sends to itself", rank);
  ReadyPlan ready;
  ready.send = std::move(plan.send);
  ready.recv = std::move(plan.recv);
  for (size_t r = 0; r < n; ++r) {
    ready.send_bytes.push_back(make_ready(ready.send[r], ready.end));
    ready.recv_bytes.push_back(make_ready(ready.recv[r], ready.end));
    ready.total_send += ready.send_bytes[r];
    ready.total_recv += ready.recv_bytes[r];
  }
  return ready;
}

std::vector<int64_t> packed_offsets(const std::vector<int64_t>& bytes) {
  std::vector<int64_t> offsets(bytes.size() + 1, 0);
  for (size_t r = 0; r < bytes.size(); ++r) offsets[r + 1] = offsets[r] + bytes[r];
  return offsets;
}

std::vector<PushPiece> cut_pieces(const ReadyPlan& plan, int rank, int32_t piece_bytes) {
  const size_t n = plan.send.size();
  std::vector<std::vector<PushPiece>> by_peer(n);
  size_t most = 0;
  for (size_t r = 0; r < n; ++r) {
    for (const Segment& s : plan.send[r])
      for (int64_t at = 0; at < s.bytes; at += piece_bytes)
        by_peer[r].push_back({s.offset + at,
                              static_cast<int32_t>(std::min<int64_t>(piece_bytes, s.bytes - at)),
                              static_cast<int32_t>(r)});
    most = std::max(most, by_peer[r].size());
  }
  std::vector<PushPiece> pieces;
  for (size_t i = 0; i < most; ++i)
    for (size_t d = 1; d < n; ++d) {
      const auto& of_peer = by_peer[(static_cast<size_t>(rank) + d) % n];
      if (i < of_peer.size()) pieces.push_back(of_peer[i]);
    }
  return pieces;
}

}  // namespace longhaul::comm::cuda
