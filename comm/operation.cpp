#include "comm/operation.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

// Below this many bytes a reduction or broadcast is one round; above, two rounds that move
// 2 (n-1)/n of the data per rank instead of n-1 times (van de Geijn; Rabenseifner).
constexpr int64_t kOneRoundBytes = 64 * 1024;

void copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}
std::byte* at(void* base, int64_t offset) {
  return static_cast<std::byte*>(base) + offset;
}
const std::byte* at(const void* base, int64_t offset) {
  return static_cast<const std::byte*>(base) + offset;
}

// Peers in the order rank+1, rank+2, ...: not all ranks start with the same one.
template <class F>
void for_each_peer(int rank, int size, F&& f) {
  for (int i = 1; i < size; ++i) f((rank + i) % size);
}

std::vector<int64_t> offsets_of(std::span<const int64_t> bytes) {
  std::vector<int64_t> offsets(bytes.size() + 1, 0);
  for (size_t i = 0; i < bytes.size(); ++i) {
    LH_CHECK(bytes[i] >= 0, "{} bytes for rank {}", bytes[i], i);
    offsets[i + 1] = offsets[i] + bytes[i];
  }
  return offsets;
}

// [0, count) in `size` segments that differ by at most one element.
int64_t segment_begin(int64_t count, int size, int r) {
  return count / size * r + std::min<int64_t>(count % size, r);
}

template <class T>
void reduce_into(void* to, const void* from, int64_t count, ReduceOp op) {
  T* a = static_cast<T*>(to);
  const T* b = static_cast<const T*>(from);
  switch (op) {
    case ReduceOp::sum:
      for (int64_t i = 0; i < count; ++i) a[i] = static_cast<T>(a[i] + b[i]);
      return;
    case ReduceOp::min:
      for (int64_t i = 0; i < count; ++i) a[i] = std::min(a[i], b[i]);
      return;
    case ReduceOp::max:
      for (int64_t i = 0; i < count; ++i) a[i] = std::max(a[i], b[i]);
      return;
  }
}

void reduce_into(DType dtype, void* to, const void* from, int64_t count, ReduceOp op) {
  switch (dtype) {
    case DType::f64:
      return reduce_into<double>(to, from, count, op);
    case DType::f32:
      return reduce_into<float>(to, from, count, op);
    case DType::i64:
      return reduce_into<int64_t>(to, from, count, op);
    case DType::i32:
      return reduce_into<int32_t>(to, from, count, op);
    default:
      break;
  }
  LH_CHECK(false, "all_reduce over {}", dtype_name(dtype));
}

Round gather_round(int rank, int size, const void* send, int64_t send_bytes, void* recv,
                   const std::vector<int64_t>& offsets) {
  Round round;
  for_each_peer(rank, size, [&](int peer) {
    round.sends.push_back({peer, send, send_bytes});
    const auto p = static_cast<size_t>(peer);
    round.receives.push_back({peer, at(recv, offsets[p]), offsets[p + 1] - offsets[p]});
  });
  return round;
}

}  // namespace

const char* kind_name(OpKind kind) {
  switch (kind) {
    case OpKind::all_gather:
      return "all_gather";
    case OpKind::all_to_all:
      return "all_to_all";
    case OpKind::send_recv:
      return "send_recv";
    case OpKind::all_reduce:
      return "all_reduce";
    case OpKind::broadcast:
      return "broadcast";
    case OpKind::barrier:
      return "barrier";
  }
  return "?";
}

bool Fingerprint::same_operation(const Fingerprint& o) const {
  return group == o.group && sequence == o.sequence && layer == o.layer && detail == o.detail &&
         round == o.round && kind == o.kind && std::memcmp(name, o.name, sizeof name) == 0;
}

std::string Fingerprint::to_string() const {
  const std::string text(name, strnlen(name, sizeof name));
  return layer < 0 ? fmt::format("{} ({} #{})", text, kind_name(kind), sequence)
                   : fmt::format("{}, layer {} ({} #{})", text, layer, kind_name(kind), sequence);
}

Plan plan_all_gather(int rank, int size, const void* send, int64_t send_bytes, void* recv,
                     std::span<const int64_t> recv_bytes, OpLabel label) {
  LH_CHECK(static_cast<int>(recv_bytes.size()) == size, "{}: {} sizes for {} ranks", label.name,
           recv_bytes.size(), size);
  LH_CHECK(recv_bytes[static_cast<size_t>(rank)] == send_bytes, "{}: sends {} but expects {}",
           label.name, send_bytes, recv_bytes[static_cast<size_t>(rank)]);
  const std::vector<int64_t> offsets = offsets_of(recv_bytes);
  Plan plan{OpKind::all_gather, label, 0, {}, nullptr};
  // In place is allowed: the own part may already lie where it belongs.
  if (at(recv, offsets[static_cast<size_t>(rank)]) != send)
    copy_bytes(at(recv, offsets[static_cast<size_t>(rank)]), send, send_bytes);
  plan.rounds.push_back(gather_round(rank, size, send, send_bytes, recv, offsets));
  return plan;
}

Plan plan_all_to_all(int rank, int size, const void* send, std::span<const int64_t> send_bytes,
                     void* recv, std::span<const int64_t> recv_bytes, OpLabel label) {
  LH_CHECK(static_cast<int>(send_bytes.size()) == size && recv_bytes.size() == send_bytes.size(),
           "{}: {} and {} sizes for {} ranks", label.name, send_bytes.size(), recv_bytes.size(),
           size);
  const auto self = static_cast<size_t>(rank);
  LH_CHECK(send_bytes[self] == recv_bytes[self], "{}: sends itself {} but expects {}", label.name,
           send_bytes[self], recv_bytes[self]);
  const std::vector<int64_t> from = offsets_of(send_bytes), to = offsets_of(recv_bytes);
  Plan plan{OpKind::all_to_all, label, 0, {}, nullptr};
  copy_bytes(at(recv, to[self]), at(send, from[self]), send_bytes[self]);
  Round round;
  for_each_peer(rank, size, [&](int peer) {
    const auto p = static_cast<size_t>(peer);
    round.sends.push_back({peer, at(send, from[p]), send_bytes[p]});
    round.receives.push_back({peer, at(recv, to[p]), recv_bytes[p]});
  });
  plan.rounds.push_back(std::move(round));
  return plan;
}

Plan plan_send_recv(int rank, int size, const void* send, int64_t send_bytes, int to, void* recv,
                    int64_t recv_bytes, int from, OpLabel label) {
  LH_CHECK(to >= -1 && to < size && from >= -1 && from < size, "{}: to {} from {} of {} ranks",
           label.name, to, from, size);
  LH_CHECK((to < 0 || send_bytes >= 0) && (from < 0 || recv_bytes >= 0), "{}: {} and {} bytes",
           label.name, send_bytes, recv_bytes);
  LH_CHECK((to == rank) == (from == rank), "{}: rank {} sends to {} and receives from {}",
           label.name, rank, to, from);
  Plan plan{OpKind::send_recv, label, 0, {}, nullptr};
  Round round;
  if (to == rank) {
    LH_CHECK(send_bytes == recv_bytes, "{}: sends itself {} but expects {}", label.name, send_bytes,
             recv_bytes);
    copy_bytes(recv, send, send_bytes);
  } else {
    if (to >= 0) round.sends.push_back({to, send, send_bytes});
    if (from >= 0) round.receives.push_back({from, recv, recv_bytes});
  }
  plan.rounds.push_back(std::move(round));
  return plan;
}

Plan plan_all_reduce(int rank, int size, void* data, int64_t count, DType dtype, ReduceOp op,
                     OpLabel label) {
  LH_CHECK(count >= 0, "{}: {} elements", label.name, count);
  LH_CHECK(dtype == DType::f64 || dtype == DType::f32 || dtype == DType::i64 || dtype == DType::i32,
           "{}: all_reduce over {}", label.name, dtype_name(dtype));
  Plan plan{OpKind::all_reduce,
            label,
            static_cast<int32_t>(dtype) * 16 + static_cast<int32_t>(op),
            {},
            nullptr};
  const int64_t item = dtype_size(dtype);
  const bool one_round = count * item <= kOneRoundBytes / size;
  if (size == 1) {
    plan.rounds.push_back({});
    return plan;
  }
  // Each rank reduces its segment (all of it, when small) from everybody's copy of it.
  const int64_t begin = one_round ? 0 : segment_begin(count, size, rank);
  const int64_t mine = one_round ? count : segment_begin(count, size, rank + 1) - begin;
  const int64_t stride = mine * item;
  plan.scratch.reset(new std::byte[static_cast<size_t>(stride * size + (one_round ? stride : 0))]);
  std::byte* scratch = plan.scratch.get();
  Round first;
  const std::byte* source = static_cast<const std::byte*>(data);
  if (one_round) {  // `data` is overwritten by the local step while sends may still read it
    copy_bytes(scratch + stride * size, data, stride);
    source = scratch + stride * size;
  }
  for_each_peer(rank, size, [&](int peer) {
    const int64_t peer_begin = one_round ? 0 : segment_begin(count, size, peer);
    const int64_t peer_end = one_round ? count : segment_begin(count, size, peer + 1);
    first.sends.push_back({peer, source + peer_begin * item, (peer_end - peer_begin) * item});
    first.receives.push_back({peer, scratch + stride * peer, stride});
  });
  copy_bytes(scratch + stride * rank, at(data, begin * item), stride);
  first.then = [=] {
    for (int r = 1; r < size; ++r) reduce_into(dtype, scratch, scratch + stride * r, mine, op);
    copy_bytes(at(data, begin * item), scratch, stride);
  };
  plan.rounds.push_back(std::move(first));
  if (!one_round) {
    std::vector<int64_t> offsets;
    for (int r = 0; r <= size; ++r) offsets.push_back(segment_begin(count, size, r) * item);
    plan.rounds.push_back(gather_round(rank, size, at(data, begin * item), stride, data, offsets));
    plan.rounds.back().number = 1;
  }
  return plan;
}

Plan plan_broadcast(int rank, int size, void* data, int64_t bytes, int root, OpLabel label) {
  LH_CHECK(bytes >= 0 && root >= 0 && root < size, "{}: {} bytes from {} of {} ranks", label.name,
           bytes, root, size);
  Plan plan{OpKind::broadcast, label, root, {}, nullptr};
  if (bytes <= kOneRoundBytes) {
    // Binomial tree over ranks counted from the root: receive from the one with the lowest set bit
    // cleared, then pass on to those with one lower bit set.
    const int virtual_rank = (rank - root + size) % size;
    Round receive, send;
    int bit = 1;
    while (bit < size && (virtual_rank & bit) == 0) bit <<= 1;
    if (virtual_rank != 0)
      receive.receives.push_back({(virtual_rank - bit + root) % size, data, bytes});
    for (bit >>= 1; bit > 0; bit >>= 1)
      if (virtual_rank + bit < size)
        send.sends.push_back({(virtual_rank + bit + root) % size, data, bytes});
    plan.rounds.push_back(std::move(receive));
    plan.rounds.push_back(std::move(send));
    return plan;
  }
  // The root scatters segments, then all gather them.
  std::vector<int64_t> offsets;
  for (int r = 0; r <= size; ++r) offsets.push_back(segment_begin(bytes, size, r));
  const auto self = static_cast<size_t>(rank);
  Round scatter;
  if (rank == root) {
    for_each_peer(rank, size, [&](int peer) {
      const auto p = static_cast<size_t>(peer);
      scatter.sends.push_back({peer, at(data, offsets[p]), offsets[p + 1] - offsets[p]});
    });
  } else {
    scatter.receives.push_back({root, at(data, offsets[self]), offsets[self + 1] - offsets[self]});
  }
  plan.rounds.push_back(std::move(scatter));
  Round gather = gather_round(rank, size, at(data, offsets[self]),
                              offsets[self + 1] - offsets[self], data, offsets);
  if (rank == root) gather.receives.clear();  // it has all
  std::erase_if(gather.sends, [&](const SendPart& part) { return part.peer == root; });
  gather.number = 1;
  plan.rounds.push_back(std::move(gather));
  return plan;
}

Plan plan_barrier(int rank, int size, OpLabel label) {
  // Dissemination (Hensgen, Finkel, Manber 1988): in round k hear from the rank 2^k before.
  Plan plan{OpKind::barrier, label, 0, {}, nullptr};
  for (int step = 1; step < size; step *= 2) {
    Round round;
    round.sends.push_back({(rank + step) % size, nullptr, 0});
    round.receives.push_back({(rank - step + size) % size, nullptr, 0});
    round.number = static_cast<int>(plan.rounds.size());
    plan.rounds.push_back(std::move(round));
  }
  if (plan.rounds.empty()) plan.rounds.push_back({});
  return plan;
}

}  // namespace longhaul::comm
