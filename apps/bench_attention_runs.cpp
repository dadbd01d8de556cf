// The ways in which `longhaul bench attention` computes on GPUs.
#if LONGHAUL_HAS_CUDA
#include <algorithm>

#include "apps/bench_attention_gpu.h"
#include "attention/cuda/device_attention.h"
#include "comm/cuda/device_wait.h"
#include "comm/cuda/gather.h"
#include "runtime/core/cuda/tables.h"
#include "runtime/core/log.h"
#include "runtime/layout/exchange_plan.h"
#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/qkv.h"

namespace longhaul::apps {
namespace {

using cuda::DeviceTensor;

// Layers take turns, as in a model: each has its own part of the KV cache.
constexpr int kLayers = 4;
constexpr comm::OpLabel kLabel{"bench"};

class KernelRun final : public AttentionRun {
 public:
  KernelRun(AttentionData& data, cudaStream_t stream) : data_(data), stream_(stream) {
    const cuda::Device& device = cuda::current_device();
    attention::cuda::PlanOptions options;
    options.multiprocessors = device.multiprocessors;
    plan_ = make_plan(attention::cuda::choose_kernel(device, data.shape), data.shape, data.items(),
                      options);
    table_ = tables_.add(plan_.table);
    tables_.upload(stream);
    workspace_ = cuda::Buffer(std::max<int64_t>(plan_.workspace_bytes, 1), "attention's scratch",
                              MemoryUse::activations);
    LH_CUDA(cudaMemsetAsync(workspace_.data(), 0, static_cast<size_t>(workspace_.bytes()), stream));
  }

  void layer() override {
    const attention::cuda::Shape& s = data_.shape;
    attention::cuda::Args args;
    args.q = data_.q.view().data;
    args.k = data_.kv.view().data;
    args.v = static_cast<const std::byte*>(args.k) +
             int64_t{s.num_kv_heads} * s.head_dim * dtype_size(s.dtype);
    args.out = data_.out.view().data;
    args.lse = data_.lse.view().as<float>();
    args.q_rows = data_.q.view().rows();
    args.kv_rows = data_.num_keys;
    args.q_stride = args.out_stride = data_.q.view().shape.row_elements();
    args.k_stride = args.v_stride = data_.width();
    args.out_type =
        s.dtype == DType::f32 ? attention::cuda::OutType::f32 : attention::cuda::OutType::bf16;
    args.scale = data_.scale;
    args.table = tables_.at<std::byte>(table_);
    args.workspace = workspace_.data();
    attention::cuda::forward(plan_, args, stream_);
  }
  double flops() const override { return plan_.flops; }
  std::string kernel() const override {
    return std::string(attention::cuda::kernel_name(plan_.kernel));
  }

 private:
  AttentionData& data_;
  cudaStream_t stream_;
  attention::cuda::Plan plan_;
  cuda::StepTables tables_;
  size_t table_ = 0;
  cuda::Buffer workspace_;
};

class RankRun final : public AttentionRun {
 public:
  RankRun(AttentionData& data, comm::Communicator& comm, const std::string& exchange,
          bool wait_in_kernel, cudaStream_t stream)
      : data_(data),
        comm_(comm),
        stream_(stream),
        gather_(comm::cuda::make_gather(comm, exchange, &why_)),
        cache_(cache_shape(data)),
        attention_(comm, gather_.get(), cache_, stream, {.wait_in_kernel = wait_in_kernel}),
        alone_(data, stream) {
    if (comm.rank() == 0) spdlog::info("KV exchange: {}", why_);
    const int sequences = data.layout.num_sequences();
    layout::KvOwnership ownership(comm.size(), sequences);
    std::vector<layout::SequenceExtent> prefixes;
    for (const layout::SequenceExtent& e : data.layout.sequences())
      prefixes.push_back({0, e.prefix});
    const auto before =
        layout::BatchLayout::make(data.layout.kind(), comm.size(), prefixes, nullptr);
    ownership.append(before);
    reserve_cache(ownership);
    if (before.total_tokens() > 0) store_prefixes(before, ownership);
    ownership.append(data.layout);
    attention_.begin_step(data.shape, data.layout, ownership);
    received_ =
        layout::exchange_recv_rows(data.layout, ownership)[static_cast<size_t>(comm.rank())] *
        data.kv.view().row_bytes();
    std::vector<int64_t> rows;
    for (const AttentionData::Row& r : data.rows()) rows.push_back(r.key_row);
    own_rows(rows);
  }

  // The rank's own rows, as its projection would have formed them.
  void load() override {
    ops::cuda::gather_rows(data_.kv, {tables_.at<void>(rows_), DType::i64, {own_.view().rows()}},
                           own_, stream_);
  }
  void layer() override {
    send();
    attention_.await(layer_);
    attention_.attend(layer_, data_.q, data_.scale, data_.out, data_.lse);
  }
  bool exchanges() const override { return true; }
  // Everything received, whoever would have waited for it in a layer.
  void exchange() override {
    send();
    gather_->finish(stream_);
  }
  void attend() override { alone_.layer(); }
  void poll() override { gather_->check(); }
  double flops() const override { return attention_.flops_per_layer(); }
  std::string kernel() const override { return attention_.kernel(); }
  std::string exchange_name() const override { return std::string(gather_->name()); }
  int64_t received_bytes() const override { return received_; }

 private:
  static attention::cuda::DeviceKvCacheShape cache_shape(const AttentionData& data) {
    attention::cuda::DeviceKvCacheShape shape;
    shape.num_layers = kLayers;
    shape.num_sequences = data.layout.num_sequences();
    shape.row_elements = data.width();
    shape.dtype = data.shape.dtype;
    return shape;
  }

  // One slab for all sequences: each slab that a step writes to is a destination of its own, and
  // the kernel that stores keys takes a few only.
  void reserve_cache(layout::KvOwnership ownership) {
    ownership.append(data_.layout);
    const int64_t page = cache_.shape().page_size;
    int64_t pages = 1;
    for (int s = 0; s < data_.layout.num_sequences(); ++s)
      pages += (ownership.num_tokens(comm_.rank(), s) + page - 1) / page;
    cache_.add_slab(pages);
  }

  void own_rows(const std::vector<int64_t>& rows) {
    tables_.restart();
    rows_ = tables_.add(rows);
    tables_.upload(stream_);
    own_ = DeviceTensor(data_.shape.dtype, {static_cast<int64_t>(rows.size()), data_.width()},
                        "a rank's own keys", MemoryUse::activations);
    load();
  }

  // Writes own_ where the next layer's keys go, and lets them go out.
  void send() {
    layer_ = (layer_ + 1) % kLayers;
    const attention::cuda::Shape& s = data_.shape;
    ops::cuda::QkvArgs args;
    args.qkv = own_.view();
    args.num_kv_heads = s.num_kv_heads;
    args.head_dim = s.head_dim;
    args.head_dim_v = s.head_dim_v;
    args.v_column = int64_t{s.num_kv_heads} * s.head_dim;
    args.kv_row_stride = data_.width();
    const auto targets = attention_.targets(layer_);
    LH_CHECK(targets.size() <= args.destinations.size(), "{} places for K and V", targets.size());
    args.num_destinations = static_cast<int>(targets.size());
    std::copy(targets.begin(), targets.end(), args.destinations.begin());
    ops::cuda::finish_qkv(args, stream_);
    attention_.exchange(layer_);
  }

  // Puts the cached tokens into every layer's cache, by a step of their own.
  void store_prefixes(const layout::BatchLayout& before, const layout::KvOwnership& ownership) {
    attention_.begin_step(data_.shape, before, ownership);
    std::vector<int64_t> rows(static_cast<size_t>(before.num_tokens(comm_.rank())));
    for (layout::Half half : {layout::Half::prev, layout::Half::next})
      for (int s = 0; s < before.num_sequences(); ++s) {
        const layout::Block& block = before.block(comm_.rank(), half, s);
        for (int64_t j = 0; j < block.length; ++j)
          rows[static_cast<size_t>(before.row(comm_.rank(), half, s) + j)] =
              data_.key_base[static_cast<size_t>(s)] + block.start + j;
      }
    own_rows(rows);
    for (int i = 0; i < kLayers; ++i) exchange();
    comm::cuda::wait_stream(comm_, stream_, kLabel, [&] { gather_->check(); });
  }

  AttentionData& data_;
  comm::Communicator& comm_;
  cudaStream_t stream_;
  std::string why_;
  std::unique_ptr<comm::cuda::Gather> gather_;
  attention::cuda::DeviceKvCache cache_;
  attention::cuda::DeviceAttention attention_;
  KernelRun alone_;  // the rank's items with all keys at hand
  cuda::StepTables tables_;
  size_t rows_ = 0;
  DeviceTensor own_;
  int64_t received_ = 0;
  int layer_ = 0;
};

}  // namespace

std::unique_ptr<AttentionRun> make_kernel_run(AttentionData& data, cudaStream_t stream) {
  return std::make_unique<KernelRun>(data, stream);
}

std::unique_ptr<AttentionRun> make_rank_run(AttentionData& data, comm::Communicator& comm,
                                            const std::string& exchange, bool wait_in_kernel,
                                            cudaStream_t stream) {
  return std::make_unique<RankRun>(data, comm, exchange, wait_in_kernel, stream);
}

}  // namespace longhaul::apps
#endif
