#include "attention/cuda/device_attention.h"

#include <algorithm>
#include <utility>

#include "runtime/core/cuda/device.h"

namespace longhaul::attention::cuda {
namespace {

using layout::Half;

// Up to so many bytes to any one rank, the kernel that forms K and V stores them into the other
// ranks' memory itself: a copy engine takes some microseconds to start (docs/performance.md).
constexpr int64_t kStoreToPeersBytes = 1 << 20;

constexpr int kMostReadySources = 32;  // bits of a word of ReadyFlags::row_sources

// As ops::cuda::KvCopy has its runs.
struct CopyRun {
  int64_t from_row, to_row, count;
};

}  // namespace

DeviceAttention::DeviceAttention(comm::Communicator& comm, comm::cuda::Gather* gather,
                                 DeviceKvCache& cache, cudaStream_t stream, Options options)
    : comm_(comm), gather_(gather), cache_(cache), stream_(stream), options_(options) {
  LH_CHECK((gather != nullptr) == (comm.size() > 1), "{} ranks", comm.size());
}

int64_t DeviceAttention::row_bytes() const {
  return cache_.shape().row_elements * dtype_size(cache_.shape().dtype);
}

void DeviceAttention::begin_step(const Shape& shape, const layout::BatchLayout& layout,
                                 const layout::KvOwnership& ownership) {
  LH_CHECK(layout.cp() == comm_.size() && ownership.cp() == comm_.size(),
           "a layout of {} ranks, {}", layout.cp(), comm_.size());
  LH_CHECK(cache_.shape().row_elements ==
               int64_t{shape.num_kv_heads} * (shape.head_dim + shape.head_dim_v),
           "{} kv heads", shape.num_kv_heads);
  shape_ = shape;
  tables_.restart();
  cache_rows_.clear();
  prefix_copies_.clear();
  store_to_peers_ = false;
  std::vector<int64_t> stored;
  for (int s = 0; s < layout.num_sequences(); ++s)
    stored.push_back(ownership.num_tokens(comm_.rank(), s));
  cache_.reserve_totals(stored);
  plan_rows(layout, ownership);
  if (gather_ != nullptr) plan_gather(layout, ownership);
  plan_items(layout);
  tables_.upload(stream_);
  if (workspace_.bytes() < plan_.workspace_bytes) {
    workspace_.reset();
    workspace_ = longhaul::cuda::Buffer(plan_.workspace_bytes, "attention's scratch",
                                        MemoryUse::activations);
  }
  // Another plan has its counters where this one had results.
  if (plan_.workspace_bytes > 0)
    LH_CUDA(
        cudaMemsetAsync(workspace_.data(), 0, static_cast<size_t>(plan_.workspace_bytes), stream_));
}

// Rows of the new tokens in the cache's slabs; where keys of each sequence begin.
void DeviceAttention::plan_rows(const layout::BatchLayout& layout,
                                const layout::KvOwnership& ownership) {
  const int rank = comm_.rank();
  const auto local_rows = static_cast<size_t>(layout.num_tokens(rank));
  std::vector<std::vector<int64_t>> slab_rows(static_cast<size_t>(cache_.pages().num_slabs()));
  std::vector<int64_t> key_rows(local_rows, -1);
  base_row_.assign(static_cast<size_t>(layout.num_sequences()), 0);
  num_key_rows_ = 0;
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
    if (e.extend == 0) continue;
    const auto i = static_cast<size_t>(s);
    if (gather_ != nullptr) {
      base_row_[i] = num_key_rows_;
      num_key_rows_ += e.prefix + e.extend;
    } else {
      // One rank reads the keys where they are stored: in one piece, as begin_run reserved them.
      const SlabPages::Extent all = cache_.pages().at(s, 0);
      LH_CHECK(all.slab == 0 && all.rows >= e.prefix + e.extend,
               "sequence {} is not in one piece: {} rows of slab {}", s, all.rows, all.slab);
      base_row_[i] = all.row;
    }
    // Slots were given in local row order: prev, then next.
    int64_t slot = ownership.num_tokens(rank, s) - layout.block(rank, Half::prev, s).length -
                   layout.block(rank, Half::next, s).length;
    for (Half half : {Half::prev, Half::next}) {
      const layout::Block& block = layout.block(rank, half, s);
      const int64_t row = layout.row(rank, half, s);
      for (int64_t done = 0; done < block.length;) {
        const SlabPages::Extent at = cache_.pages().at(s, slot + done);
        const int64_t count = std::min(at.rows, block.length - done);
        std::vector<int64_t>& rows = slab_rows[static_cast<size_t>(at.slab)];
        rows.resize(local_rows, -1);
        for (int64_t j = 0; j < count; ++j) rows[static_cast<size_t>(row + done + j)] = at.row + j;
        done += count;
      }
      for (int64_t j = 0; j < block.length; ++j)
        key_rows[static_cast<size_t>(row + j)] = base_row_[i] + block.start + j;
      slot += block.length;
    }
  }
  for (size_t slab = 0; slab < slab_rows.size(); ++slab)
    if (!slab_rows[slab].empty())
      cache_rows_.push_back({static_cast<int>(slab), tables_.add(slab_rows[slab])});
  if (gather_ == nullptr) {
    num_key_rows_ = cache_.pages().num_slabs() > 0 ? cache_.pages().slab_rows(0) : 0;
    return;
  }
  gather_rows_ = tables_.add(key_rows);

  // Cached tokens go to their natural places too, by runs that are contiguous in a slab.
  std::vector<std::vector<CopyRun>> runs(static_cast<size_t>(cache_.pages().num_slabs()));
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
    if (e.extend == 0) continue;
    for (const layout::KvRun& run : ownership.runs(rank, s)) {
      const int64_t length = std::min(run.length, e.prefix - run.position);
      for (int64_t done = 0; done < length;) {
        const SlabPages::Extent at = cache_.pages().at(s, run.slot + done);
        const int64_t count = std::min(at.rows, length - done);
        runs[static_cast<size_t>(at.slab)].push_back(
            {at.row, base_row_[static_cast<size_t>(s)] + run.position + done, count});
        done += count;
      }
    }
  }
  for (size_t slab = 0; slab < runs.size(); ++slab) {
    if (runs[slab].empty()) continue;
    prefix_copies_.push_back(
        {static_cast<int>(slab), tables_.add(runs[slab]), static_cast<int64_t>(runs[slab].size())});
  }
}

void DeviceAttention::plan_gather(const layout::BatchLayout& layout,
                                  const layout::KvOwnership& ownership) {
  gather_->reserve(num_key_rows_ * row_bytes());
  const layout::ExchangePlan exchange = layout::make_exchange_plan(layout, ownership, comm_.rank());
  const auto segments = [&](const std::vector<layout::KvPiece>& pieces) {
    std::vector<comm::cuda::Segment> out;
    for (const layout::KvPiece& p : pieces)
      out.push_back({(base_row_[static_cast<size_t>(p.sequence)] + p.position) * row_bytes(),
                     p.length * row_bytes()});
    return out;
  };
  comm::cuda::GatherPlan plan;
  std::vector<uint32_t> sources(static_cast<size_t>((num_key_rows_ + kReadyRows - 1) / kReadyRows));
  for (int r = 0; r < comm_.size(); ++r) {
    const auto i = static_cast<size_t>(r);
    plan.send.push_back(segments(exchange.send[i]));
    plan.recv.push_back(segments(exchange.recv[i]));
    for (const comm::cuda::Segment& s : plan.recv.back())
      for (int64_t w = s.offset / row_bytes() / kReadyRows;
           w <= ((s.offset + s.bytes) / row_bytes() - 1) / kReadyRows; ++w)
        if (r < kMostReadySources) sources[static_cast<size_t>(w)] |= uint32_t{1} << r;
  }
  gather_->set_plan(std::move(plan));
  row_sources_ = tables_.add(sources);
  const int64_t most = *std::max_element(exchange.send_rows.begin(), exchange.send_rows.end());
  store_to_peers_ = !gather_->peer_buffers(0).empty() && prefix_copies_.empty() &&
                    most * row_bytes() <= kStoreToPeersBytes &&
                    comm_.size() + static_cast<int64_t>(cache_rows_.size()) <=
                        ops::cuda::QkvArgs::kMaxDestinations;
}

void DeviceAttention::plan_items(const layout::BatchLayout& layout) {
  const int rank = comm_.rank();
  std::vector<Item> items;
  for (Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      if (block.length == 0) continue;
      Item item;
      item.q_row = layout.row(rank, half, s);
      item.q_length = block.length;
      item.kv_row = base_row_[static_cast<size_t>(s)];
      item.kv_length = block.end();
      item.causal_offset = block.start;
      items.push_back(item);
    }
  const longhaul::cuda::Device& device = longhaul::cuda::current_device();
  PlanOptions options;
  options.multiprocessors = device.multiprocessors;
  options.deterministic = options_.deterministic;
  plan_ = make_plan(choose_kernel(device, shape_), shape_, items, options);
  plan_table_ = tables_.add(plan_.table);
}

std::span<const ops::cuda::KvDestination> DeviceAttention::targets(int layer) {
  targets_.clear();
  for (const SlabRows& s : cache_rows_)
    targets_.push_back({cache_.layer(s.slab, layer), tables_.at<int64_t>(s.rows)});
  if (gather_ != nullptr) {
    const auto* rows = tables_.at<int64_t>(gather_rows_);
    const int parity = gather_->next_parity();
    if (store_to_peers_)
      for (void* base : gather_->peer_buffers(parity)) targets_.push_back({base, rows});
    else
      targets_.push_back({gather_->buffer(parity), rows});
  }
  return targets_;
}

void DeviceAttention::exchange(int layer) {
  if (gather_ == nullptr) return;
  const int parity = gather_->next_parity();
  for (const PrefixCopy& c : prefix_copies_)
    ops::cuda::copy_kv_rows({cache_.layer(c.slab, layer), gather_->buffer(parity), row_bytes(),
                             tables_.at<int64_t>(c.runs), c.num_runs},
                            stream_);
  const comm::OpLabel label{"allgather kv", layer};
  if (store_to_peers_)
    gather_->start_signal_only(parity, stream_, label);
  else
    gather_->start(parity, stream_, label);
}

void DeviceAttention::await(int) {
  if (gather_ == nullptr) return;
  waiting_in_kernel_ = options_.wait_in_kernel && comm_.size() <= kMostReadySources &&
                       gather_->flags().flags != nullptr;
  if (!waiting_in_kernel_) gather_->finish(stream_);
}

void DeviceAttention::attend(int layer, ConstTensorView q, double scale, TensorView out,
                             TensorView lse) {
  LH_CHECK(q.shape.rank() == 3 && q.shape[1] == shape_.num_heads && q.shape[2] == shape_.head_dim,
           "q {} for {} heads of {}", q.shape.to_string(), shape_.num_heads, shape_.head_dim);
  if (q.rows() > 0) enqueue_kernel(layer, q, scale, out, lse);
  if (waiting_in_kernel_) gather_->finish(stream_);
}

void DeviceAttention::enqueue_kernel(int layer, ConstTensorView q, double scale, TensorView out,
                                     TensorView lse) {
  Args args;
  args.q = q.data;
  // The buffer exchanged last is the one before the next.
  const void* keys =
      gather_ != nullptr ? gather_->buffer(1 - gather_->next_parity()) : cache_.layer(0, layer);
  args.k = keys;
  args.v = static_cast<const std::byte*>(keys) +
           int64_t{shape_.num_kv_heads} * shape_.head_dim * dtype_size(shape_.dtype);
  args.out = out.data;
  args.lse = lse.as<float>();
  args.q_rows = q.rows();
  args.kv_rows = num_key_rows_;
  args.q_stride = int64_t{shape_.num_heads} * shape_.head_dim;
  args.k_stride = args.v_stride = cache_.shape().row_elements;
  args.out_stride = int64_t{shape_.num_heads} * shape_.head_dim_v;
  args.out_type = out.dtype == DType::f32 ? OutType::f32 : OutType::bf16;
  args.scale = scale;
  args.table = tables_.at<std::byte>(plan_table_);
  args.workspace = workspace_.data();
  if (waiting_in_kernel_) {
    const comm::cuda::Gather::Flags flags = gather_->flags();
    args.ready = {flags.flags, tables_.at<uint32_t>(row_sources_), flags.value};
  }
  forward(plan_, args, stream_);
}

}  // namespace longhaul::attention::cuda
