#if LONGHAUL_HAS_CUDA
#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "apps/bench_attention_gpu.h"
#include "runtime/ops/cuda/random.h"

namespace longhaul::apps {
namespace {

using cuda::DeviceTensor;
using layout::Half;

constexpr int64_t kMostRows = 64, kLeastRows = 8, kHeadsPerRow = 4;
// Products that the check may sum on the host: about two seconds of one core.
constexpr double kMostProducts = 6e9;

layout::BatchLayout make_layout(const AttentionBench& bench, int ranks) {
  // Alone, a sequence is one piece of work.
  const auto kind =
      ranks == 1 ? layout::LayoutKind::contiguous : layout::parse_layout(bench.layout);
  return layout::BatchLayout::make(kind, ranks, bench.extents());
}

Tensor to_host(ConstTensorView device) {
  Tensor host(device.dtype, device.shape);
  LH_CUDA(cudaMemcpy(host.data(), device.data, static_cast<size_t>(device.num_bytes()),
                     cudaMemcpyDeviceToHost));
  return host;
}

// The chosen rows of a device tensor.
Tensor rows_to_host(ConstTensorView device, const std::vector<int64_t>& rows) {
  std::vector<int64_t> dims(device.shape.dims().begin(), device.shape.dims().end());
  dims[0] = static_cast<int64_t>(rows.size());
  Tensor host(device.dtype, Shape(dims));
  for (size_t i = 0; i < rows.size(); ++i) {
    const TensorView to = host.view().row_range(static_cast<int64_t>(i), 1);
    LH_CUDA(cudaMemcpy(to.data, device.row_range(rows[i], 1).data,
                       static_cast<size_t>(to.num_bytes()), cudaMemcpyDeviceToHost));
  }
  return host;
}

}  // namespace

AttentionData::AttentionData(const AttentionBench& bench, int own_rank, int ranks)
    : causal(bench.causal()), rank(own_rank), layout(make_layout(bench, ranks)) {
  const Heads heads = parse_heads(bench.heads);
  const DType dtype = bench.compute();
  shape.dtype = dtype;
  shape.head_dim = shape.head_dim_v = static_cast<int>(bench.head_dim);
  shape.num_heads = static_cast<int>(heads.query);
  shape.num_kv_heads = static_cast<int>(heads.kv);
  scale = 1 / std::sqrt(static_cast<double>(bench.head_dim));
  for (const layout::SequenceExtent& e : layout.sequences()) {
    key_base.push_back(num_keys);
    num_keys += e.prefix + e.extend;
  }
  rows_.resize(static_cast<size_t>(layout.num_tokens(rank)));
  for (Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
      const int64_t base = key_base[static_cast<size_t>(s)];
      for (int64_t j = 0; j < block.length; ++j) {
        const int64_t position = block.start + j;
        rows_[static_cast<size_t>(layout.row(rank, half, s) + j)] = {
            base + position, base, causal ? position + 1 : e.prefix + e.extend};
      }
    }
  if (rows_.empty())
    fail(ExitCode::usage, "rank {} of {} has no tokens of {}; give more --lengths", rank, ranks,
         layout.total_tokens());
  const auto rows = static_cast<int64_t>(rows_.size());
  const MemoryUse use = MemoryUse::activations;
  q = DeviceTensor(dtype, {rows, heads.query, bench.head_dim}, "the queries", use);
  out = DeviceTensor(dtype, {rows, heads.query, bench.head_dim}, "the outputs", use);
  lse = DeviceTensor(DType::f32, {rows, heads.query}, "the outputs' sums", use);
  kv = DeviceTensor(dtype, {num_keys, 2 * heads.kv * bench.head_dim}, "the keys and values", use);
}

void AttentionData::fill(uint64_t seed, cudaStream_t stream) {
  // The same keys on every rank; its own queries.
  ops::cuda::fill_random(kv, 2 * seed, 0, 1, stream);
  ops::cuda::fill_random(q, 1000003 * (2 * seed + 1) + static_cast<uint64_t>(rank), 0, 1, stream);
  for (const TensorView& t : {out.view(), lse.view()})
    LH_CUDA(cudaMemsetAsync(t.data, 0xff, static_cast<size_t>(t.num_bytes()), stream));
}

std::vector<attention::cuda::Item> AttentionData::items() const {
  std::vector<attention::cuda::Item> items;
  for (Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      if (block.length == 0) continue;
      const layout::SequenceExtent& e = layout.sequences()[static_cast<size_t>(s)];
      attention::cuda::Item item;
      item.q_row = layout.row(rank, half, s);
      item.q_length = block.length;
      item.kv_row = key_base[static_cast<size_t>(s)];
      item.kv_length = causal ? block.end() : e.prefix + e.extend;
      item.causal_offset = causal ? block.start : attention::cuda::kNoMask;
      items.push_back(item);
    }
  return items;
}

SampleErrors AttentionData::check(ThreadPool& pool) const {
  // The first and the last row of each piece of work, where masks go wrong first, then any.
  std::mt19937_64 rng(7);
  std::set<int64_t> chosen;
  double products = 0;
  const auto choose = [&](int64_t row) {
    const double more = static_cast<double>(rows_[static_cast<size_t>(row)].visible * kHeadsPerRow *
                                            2 * shape.head_dim);
    const auto count = static_cast<int64_t>(chosen.size());
    if (count >= kMostRows || (count >= kLeastRows && products + more > kMostProducts)) return;
    if (chosen.insert(row).second) products += more;
  };
  std::vector<attention::cuda::Item> work = items();
  std::shuffle(work.begin(), work.end(), rng);
  for (size_t i = 0; i < std::min<size_t>(work.size(), 12); ++i) {
    choose(work[i].q_row);
    choose(work[i].q_row + work[i].q_length - 1);
  }
  for (int64_t i = 0; i < 2 * kMostRows; ++i)
    choose(static_cast<int64_t>(rng() % static_cast<uint64_t>(rows_.size())));

  const std::vector<int64_t> picked(chosen.begin(), chosen.end());
  std::vector<AttentionSample> samples;
  for (size_t i = 0; i < picked.size(); ++i) {
    const Row& row = rows_[static_cast<size_t>(picked[i])];
    for (int64_t h = 0; h < std::min<int64_t>(kHeadsPerRow, shape.num_heads); ++h)
      samples.push_back({static_cast<int64_t>(i),
                         static_cast<int64_t>(rng() % static_cast<uint64_t>(shape.num_heads)),
                         row.first_key, row.visible});
  }
  const Tensor keys = to_host(kv);
  const Tensor queries = rows_to_host(q, picked), outputs = rows_to_host(out, picked);
  const Tensor sums = rows_to_host(lse, picked);
  return check_attention(samples, queries, keys, shape.num_kv_heads, shape.head_dim, scale, outputs,
                         sums, pool);
}

}  // namespace longhaul::apps
#endif
