#include "attention/context_parallel.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <vector>

#include "attention/lse_merge.h"
#include "attention/two_half.h"
#include "runtime/core/suggest.h"

namespace longhaul::attention {
namespace {

constexpr int64_t kCopyRows = 256;  // tokens a copying task takes
// Queries whose partial result over received keys is held at once: bounds that second result's
// memory, and is enough for a backend to reuse each packed key tile many times.
constexpr int64_t kRemoteRows = 4096;
constexpr std::array<std::string_view, 1> kStrategyNames = {"allgather"};

using Clock = std::chrono::steady_clock;
double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// `length` tokens at `slot` of a sequence <-> rows of a tensor or of a message.
struct CopyTask {
  int sequence = 0;
  int64_t slot = 0;
  int64_t length = 0;
  int64_t row = 0;     // of the tensor; of the piece's first token in the message
  int64_t offset = 0;  // tokens before these in the piece
  int64_t piece_length = 0;
};

struct RowRange {
  int64_t begin = 0;
  int64_t count = 0;
};

// Queries that see received keys, some consecutive rows of them at a time.
struct RemoteGroup {
  RowRange rows;                 // local rows from the first query to the last
  std::vector<WorkItem> items;   // q_row counts from rows.begin
  std::vector<RowRange> merged;  // rows of the items, counted from rows.begin
};

void append_range(std::vector<RowRange>& ranges, int64_t begin, int64_t count) {
  if (!ranges.empty() && ranges.back().begin + ranges.back().count == begin)
    ranges.back().count += count;
  else
    ranges.push_back({begin, count});
}

// The slot of the first token of `block` in the rank's share of the sequence.
int64_t slot_of(std::span<const layout::KvRun> runs, const layout::Block& block) {
  for (const layout::KvRun& run : runs)
    if (run.position <= block.start && block.end() <= run.position + run.length)
      return run.slot + block.start - run.position;
  LH_CHECK(false, "tokens [{}, {}) of this step are not booked", block.start, block.end());
  return -1;
}

}  // namespace

std::string_view strategy_name(Strategy strategy) {
  return kStrategyNames[static_cast<size_t>(strategy)];
}

Strategy parse_strategy(std::string_view name) {
  for (size_t i = 0; i < kStrategyNames.size(); ++i)
    if (kStrategyNames[i] == name) return static_cast<Strategy>(i);
  const std::string_view near = nearest_name(name, kStrategyNames);
  if (near.empty())
    fail(ExitCode::usage, "unknown strategy \"{}\": one of {}", name,
         fmt::join(kStrategyNames, ", "));
  fail(ExitCode::usage, "unknown strategy \"{}\": did you mean {}?", name, near);
}

struct ContextParallelAttention::Impl {
  comm::Communicator& comm;
  Backend& backend;
  ThreadPool& pool;
  PagedKvCache& cache;
  Options options;
  AttentionTimes times;

  // Of the step.
  int64_t local_rows = -1;
  std::vector<WorkItem> items;                       // both halves of every sequence
  std::vector<RemoteGroup> remote;                   // those that see received keys
  std::vector<RowRange> unmerged_rows;               // rows of the others
  int64_t remote_rows = 0;                           // of the largest group
  std::vector<std::vector<layout::KvRun>> own_runs;  // [num_sequences], empty without queries
  std::vector<CopyTask> store_tasks, pack_tasks;
  layout::ExchangePlan plan;
  bool exchanging = false;  // some rank receives something: all take part
  TwoHalfArguments halves;  // with two_calls only

  // Scratch, kept over the layers of a step.
  Tensor send_buffer, recv_buffer;
  std::array<Tensor, 2> partial_out, partial_lse;
  std::vector<std::vector<KvSegment>> own_segments, received_segments;

  // The exchange in flight.
  comm::Request request;
  bool in_flight = false;
  Clock::time_point started, finished;
  std::function<void()> poll = [this] {
    if (in_flight && request.test()) {
      in_flight = false;
      finished = Clock::now();
    }
  };

  Impl(comm::Communicator& c, Backend& b, ThreadPool& p, PagedKvCache& k, Options o)
      : comm(c), backend(b), pool(p), cache(k), options(o) {}

  void enter(const char* what, int layer) {
    if (pool.progress() != nullptr) pool.progress()->enter(what, layer);
  }

  void begin_step(const layout::BatchLayout& layout, const layout::KvOwnership& ownership);
  void plan_remote();
  void store(int layer, ConstTensorView k, ConstTensorView v);
  void start_exchange(int layer, DType dtype, int64_t k_row, int64_t v_row);
  void finish_exchange(int layer);
  void attend(std::span<const WorkItem> work, const std::vector<std::vector<KvSegment>>& kv,
              ConstTensorView q, int64_t num_kv_heads, double scale, TensorView out,
              TensorView lse);
  TensorView scratch(Tensor& tensor, DType dtype, const Shape& shape, MemoryUse use);
  void run(int layer, ConstTensorView q, ConstTensorView k, ConstTensorView v, double scale,
           TensorView out, TensorView lse);
};

void ContextParallelAttention::Impl::begin_step(const layout::BatchLayout& layout,
                                                const layout::KvOwnership& ownership) {
  const int rank = comm.rank();
  LH_CHECK(layout.cp() == comm.size() && ownership.cp() == comm.size(),
           "layout for {} ranks, ownership for {}, communicator of {}", layout.cp(), ownership.cp(),
           comm.size());
  LH_CHECK(layout.num_sequences() == cache.shape().num_sequences &&
               layout.num_sequences() == ownership.num_sequences(),
           "layout of {} sequences, ownership of {}, cache of {}", layout.num_sequences(),
           ownership.num_sequences(), cache.shape().num_sequences);
  const auto sequences = static_cast<size_t>(layout.num_sequences());
  items.clear();
  store_tasks.clear();
  own_runs.assign(sequences, {});
  own_segments.assign(sequences, {});
  received_segments.assign(sequences, {});
  local_rows = layout.num_tokens(rank);
  for (const layout::Half half : {layout::Half::prev, layout::Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      if (block.length == 0) continue;
      const int64_t row = layout.row(rank, half, s);
      const std::span<const layout::KvRun> runs = ownership.runs(rank, s);
      items.push_back({s, row, block.length, block.start, block.end()});
      own_runs[static_cast<size_t>(s)].assign(runs.begin(), runs.end());
      const int64_t slot = slot_of(runs, block);
      for (int64_t i = 0; i < block.length; i += kCopyRows)
        store_tasks.push_back({s, slot + i, std::min(kCopyRows, block.length - i), row + i, 0, 0});
    }
  for (int s = 0; s < layout.num_sequences(); ++s)
    cache.reserve_total(s, ownership.num_tokens(rank, s));
  plan = layout::make_exchange_plan(layout, ownership, rank);
  pack_tasks.clear();
  for (const std::vector<layout::KvPiece>& pieces : plan.send)
    for (const layout::KvPiece& p : pieces)
      for (int64_t i = 0; i < p.length; i += kCopyRows)
        pack_tasks.push_back(
            {p.sequence, p.slot + i, std::min(kCopyRows, p.length - i), p.row, i, p.length});
  exchanging = plan.total_recv_rows > 0;
  for (int r = 0; r < comm.size() && !exchanging; ++r)
    exchanging = layout::make_exchange_plan(layout, ownership, r).total_recv_rows > 0;
  if (options.two_calls) halves = make_two_half_arguments(layout::make_metadata(layout, rank));
  plan_remote();
}

// Which queries see received keys; the others need no second call and no merge. A
// long item is cut: its parts are items of their own, each with the keys up to its own end.
void ContextParallelAttention::Impl::plan_remote() {
  std::vector<int64_t> first(own_runs.size(), std::numeric_limits<int64_t>::max());
  for (const std::vector<layout::KvPiece>& pieces : plan.recv)
    for (const layout::KvPiece& p : pieces)
      first[static_cast<size_t>(p.sequence)] =
          std::min(first[static_cast<size_t>(p.sequence)], p.position);
  // The vendor contract takes whole halves.
  const int64_t most = options.two_calls ? std::numeric_limits<int64_t>::max() : kRemoteRows;
  remote.clear();
  unmerged_rows.clear();
  for (const WorkItem& w : items) {
    if (first[static_cast<size_t>(w.sequence)] >= w.kv_length) {
      append_range(unmerged_rows, w.q_row, w.q_length);
      continue;
    }
    for (int64_t done = 0; done < w.q_length;) {
      if (remote.empty() || w.q_row + done + 1 - remote.back().rows.begin > most) {
        remote.emplace_back();
        remote.back().rows.begin = options.two_calls ? 0 : w.q_row + done;
      }
      RemoteGroup& group = remote.back();
      const int64_t row = w.q_row + done - group.rows.begin;
      const int64_t count = std::min(w.q_length - done, most - row);
      group.items.push_back(
          {w.sequence, row, count, w.q_position + done, w.q_position + done + count});
      append_range(group.merged, row, count);
      group.rows.count = options.two_calls ? local_rows : row + count;
      done += count;
    }
  }
  remote_rows = 0;
  for (const RemoteGroup& group : remote) remote_rows = std::max(remote_rows, group.rows.count);
}

void ContextParallelAttention::Impl::store(int layer, ConstTensorView k, ConstTensorView v) {
  pool.parallel_for(static_cast<int64_t>(store_tasks.size()), [&](int64_t i, int) {
    const CopyTask& t = store_tasks[static_cast<size_t>(i)];
    cache.write(layer, t.sequence, t.slot, k.row_range(t.row, t.length),
                v.row_range(t.row, t.length));
  });
}

// K of a piece's tokens, then their V: one message a rank, and a piece arrives as one segment.
void ContextParallelAttention::Impl::start_exchange(int layer, DType dtype, int64_t k_row,
                                                    int64_t v_row) {
  const int64_t row_bytes = k_row + v_row;
  const auto resize = [&](Tensor& t, int64_t rows) {
    if (t.defined() && t.num_bytes() == rows * row_bytes) return;
    t = Tensor();
    t = Tensor(DType::u8, {rows * row_bytes}, MemoryUse::exchange);
  };
  resize(send_buffer, plan.total_send_rows);
  resize(recv_buffer, plan.total_recv_rows);
  auto* send = static_cast<std::byte*>(send_buffer.data());
  pool.parallel_for(static_cast<int64_t>(pack_tasks.size()), [&](int64_t i, int) {
    const CopyTask& t = pack_tasks[static_cast<size_t>(i)];
    std::byte* piece = send + t.row * row_bytes;
    cache.read(layer, t.sequence, t.slot, t.length, piece + t.offset * k_row,
               piece + t.piece_length * k_row + t.offset * v_row);
  });
  for (std::vector<KvSegment>& segments : received_segments) segments.clear();
  const auto* recv = static_cast<const std::byte*>(recv_buffer.data());
  const int64_t element = dtype_size(dtype);
  for (const std::vector<layout::KvPiece>& pieces : plan.recv)
    for (const layout::KvPiece& p : pieces) {
      const std::byte* k = recv + p.row * row_bytes;
      received_segments[static_cast<size_t>(p.sequence)].push_back(
          {p.position, p.length, k, k + p.length * k_row, k_row / element, v_row / element});
    }
  std::vector<int64_t> send_bytes, recv_bytes;
  for (int64_t rows : plan.send_rows) send_bytes.push_back(rows * row_bytes);
  for (int64_t rows : plan.recv_rows) recv_bytes.push_back(rows * row_bytes);
  request = comm.start_all_to_all_v(send, send_bytes, recv_buffer.data(), recv_bytes,
                                    {"allgather kv", layer});
  in_flight = true;
  started = Clock::now();
}

void ContextParallelAttention::Impl::finish_exchange(int layer) {
  enter("allgather kv", layer);
  poll();
  const Clock::time_point waiting = Clock::now();
  times.exchange_hidden += seconds(started, in_flight ? waiting : finished);
  if (!in_flight) return;
  request.wait();
  in_flight = false;
  times.exchange_exposed += seconds(waiting, Clock::now());
}

void ContextParallelAttention::Impl::attend(std::span<const WorkItem> work,
                                            const std::vector<std::vector<KvSegment>>& kv,
                                            ConstTensorView q, int64_t num_kv_heads, double scale,
                                            TensorView out, TensorView lse) {
  if (options.two_calls)
    attend_two_halves(halves, q, make_attn_fn(backend, pool, kv, num_kv_heads, true, scale, &poll),
                      out, lse);
  else
    backend.run({q, num_kv_heads, work, kv, true, scale, out, lse, &poll}, pool);
}

TensorView ContextParallelAttention::Impl::scratch(Tensor& tensor, DType dtype, const Shape& shape,
                                                   MemoryUse use) {
  if (!tensor.defined() || tensor.dtype() != dtype || !(tensor.shape() == shape)) {
    tensor = Tensor();
    tensor = Tensor(dtype, shape, use);
  }
  return tensor.view();
}

void ContextParallelAttention::Impl::run(int layer, ConstTensorView q, ConstTensorView k,
                                         ConstTensorView v, double scale, TensorView out,
                                         TensorView lse) {
  LH_CHECK(q.shape.rank() == 3 && k.shape.rank() == 3 && v.shape.rank() == 3 &&
               q.rows() == local_rows && k.rows() == local_rows && v.rows() == local_rows,
           "q {}, k {}, v {} in a step of {} local rows", q.shape.to_string(), k.shape.to_string(),
           v.shape.to_string(), local_rows);
  LH_CHECK(k.shape[1] == v.shape[1], "{} and {} kv heads", k.shape[1], v.shape[1]);
  enter("store kv", layer);
  store(layer, k, v);
  if (exchanging) {
    const Clock::time_point packing = Clock::now();
    enter("pack kv", layer);
    start_exchange(layer, k.dtype, k.row_bytes(), v.row_bytes());
    times.exchange_exposed += seconds(packing, Clock::now());
  }

  for (size_t s = 0; s < own_runs.size(); ++s) {
    own_segments[s].clear();
    cache.append_segments(layer, static_cast<int>(s), own_runs[s], own_segments[s]);
  }
  const DType acc = accumulator_dtype(q.dtype);
  const Shape lse_shape{q.shape[0], q.shape[1]};
  const bool direct = out.dtype == acc;  // the result needs no rounding: no copy of it either
  const TensorView own_out =
      direct ? out : scratch(partial_out[0], acc, out.shape, MemoryUse::activations);
  const TensorView own_lse =
      lse.data != nullptr ? lse : scratch(partial_lse[0], acc, lse_shape, MemoryUse::activations);
  enter("attention", layer);
  Clock::time_point compute = Clock::now();
  attend(items, own_segments, q, k.shape[1], scale, own_out, own_lse);
  times.compute += seconds(compute, Clock::now());
  if (exchanging) finish_exchange(layer);

  enter("attention of received kv", layer);
  compute = Clock::now();
  if (!remote.empty()) {
    const TensorView all_out = scratch(
        partial_out[1], acc, {remote_rows, out.shape[1], out.shape[2]}, MemoryUse::activations);
    const TensorView all_lse =
        scratch(partial_lse[1], acc, {remote_rows, q.shape[1]}, MemoryUse::activations);
    for (const RemoteGroup& group : remote) {
      const TensorView far_out = all_out.row_range(0, group.rows.count);
      const TensorView far_lse = all_lse.row_range(0, group.rows.count);
      attend(group.items, received_segments, q.row_range(group.rows.begin, group.rows.count),
             k.shape[1], scale, far_out, far_lse);
      for (const RowRange& r : group.merged) {
        const int64_t row = group.rows.begin + r.begin;
        merge_partials({own_out.row_range(row, r.count), own_lse.row_range(row, r.count)},
                       {far_out.row_range(r.begin, r.count), far_lse.row_range(r.begin, r.count)},
                       out.row_range(row, r.count), own_lse.row_range(row, r.count), pool);
      }
    }
  }
  for (const RowRange& r : unmerged_rows)
    store_rounded(own_out.row_range(r.begin, r.count), out.row_range(r.begin, r.count), pool);
  times.compute += seconds(compute, Clock::now());
}

ContextParallelAttention::ContextParallelAttention(comm::Communicator& comm, Backend& backend,
                                                   ThreadPool& pool, PagedKvCache& cache,
                                                   Options options)
    : impl_(std::make_unique<Impl>(comm, backend, pool, cache, options)) {}

ContextParallelAttention::~ContextParallelAttention() = default;

void ContextParallelAttention::begin_step(const layout::BatchLayout& layout,
                                          const layout::KvOwnership& ownership) {
  impl_->begin_step(layout, ownership);
}

void ContextParallelAttention::run(int layer, ConstTensorView q, ConstTensorView k,
                                   ConstTensorView v, double scale, TensorView out,
                                   TensorView lse) {
  impl_->run(layer, q, k, v, scale, out, lse);
}

const AttentionTimes& ContextParallelAttention::times() const {
  return impl_->times;
}
void ContextParallelAttention::reset_times() {
  impl_->times = {};
}

}  // namespace longhaul::attention
