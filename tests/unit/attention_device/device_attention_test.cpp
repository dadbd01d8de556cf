// What a GPU rank's attention reads, over steps, ranks and layers: every query must see each key of
// its own past once, wherever it was stored and however it came.

#include "attention/cuda/device_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "comm/thread_communicator.h"

namespace longhaul::attention::cuda {
namespace {

using layout::BatchLayout;
using layout::Half;

constexpr int kLayers = 3;
constexpr int64_t kDim = 2;  // of K and of V; the first word counts

// Small whole numbers: sums of thousands are exact.
float key_of(int layer, int sequence, int64_t position) {
  return static_cast<float>((position * 7 + sequence * 13 + layer * 5) % 97 + 1);
}

// An exchange through the threads' own memory.
class HostGather final : public comm::cuda::Gather {
 public:
  HostGather(comm::Communicator& comm, bool stores) : comm_(comm), stores_(stores) {}
  std::string_view name() const override { return "host"; }
  void reserve(int64_t bytes) override {
    for (auto& b : buffers_)
      if (static_cast<int64_t>(b.size()) < bytes) b.assign(static_cast<size_t>(bytes), 0xff);
    const auto n = static_cast<size_t>(comm_.size());
    for (size_t p = 0; p < 2; ++p) {
      void* own = buffers_[p].data();
      peers_[p].resize(n);
      const std::vector<int64_t> sizes(n, sizeof own);
      comm_.all_gather_v(&own, sizeof own, peers_[p].data(), sizes, {"buffers"});
    }
  }
  int64_t capacity() const override { return static_cast<int64_t>(buffers_[0].size()); }
  void* buffer(int parity) const override {
    return const_cast<unsigned char*>(buffers_[static_cast<size_t>(parity)].data());
  }
  int next_parity() const override { return 1 - parity_; }
  std::span<void* const> peer_buffers(int parity) const override {
    if (!stores_) return {};
    return peers_[static_cast<size_t>(parity)];
  }
  void set_plan(comm::cuda::GatherPlan plan) override { plan_ = std::move(plan); }

  void start(int parity, cudaStream_t, comm::OpLabel label) override {
    exchange(parity, false, label);
  }
  void start_signal_only(int parity, cudaStream_t, comm::OpLabel label) override {
    ASSERT_TRUE(stores_);
    ++stored;
    exchange(parity, true, label);
  }

  // Ranks choose for themselves whether they have stored already; what such a rank sends is
  // dropped.
  void exchange(int parity, bool has_stored, comm::OpLabel label) {
    ASSERT_EQ(parity, next_parity());
    parity_ = parity;
    const auto n = static_cast<size_t>(comm_.size());
    const char mine = has_stored ? 1 : 0;
    std::vector<char> modes(n);
    comm_.all_gather_v(&mine, 1, modes.data(), std::vector<int64_t>(n, 1), {"modes"});
    std::vector<unsigned char> sent, received;
    std::vector<int64_t> send_bytes, recv_bytes;
    auto* base = static_cast<unsigned char*>(buffer(parity));
    for (const auto& segments : plan_.send) {
      const size_t before = sent.size();
      for (const auto& s : segments)
        sent.insert(sent.end(), base + s.offset, base + s.offset + s.bytes);
      send_bytes.push_back(static_cast<int64_t>(sent.size() - before));
    }
    int64_t total = 0;
    for (const auto& segments : plan_.recv) {
      int64_t bytes = 0;
      for (const auto& s : segments) bytes += s.bytes;
      recv_bytes.push_back(bytes);
      total += bytes;
    }
    received.resize(static_cast<size_t>(total));
    comm_.all_to_all_v(sent.data(), send_bytes, received.data(), recv_bytes, label);
    size_t at = 0;
    for (size_t r = 0; r < n; ++r)
      for (const auto& s : plan_.recv[r]) {
        if (modes[r] == 0)
          std::memcpy(base + s.offset, received.data() + at, static_cast<size_t>(s.bytes));
        at += static_cast<size_t>(s.bytes);
      }
  }
  void finish(cudaStream_t) override {}
  Flags flags() const override { return {nullptr, 0}; }
  void check() override {}
  comm::Communicator::Traffic traffic() const override { return {}; }

  void poison() { std::memset(buffer(parity_), 0xff, static_cast<size_t>(capacity())); }
  int stored = 0;  // exchanges by kernels' own stores

 private:
  comm::Communicator& comm_;
  const bool stores_;
  std::array<std::vector<unsigned char>, 2> buffers_;
  std::array<std::vector<void*>, 2> peers_;
  comm::cuda::GatherPlan plan_;
  int parity_ = 1;
};

struct Scene {
  int ranks = 1;
  bool stores = false;
  int64_t page_size = 64;
  int64_t first_slab_pages = 0;
  layout::LayoutKind kind = layout::LayoutKind::balanced;
  std::vector<std::vector<layout::SequenceExtent>> steps;
};

Scene make_scene(std::mt19937& rng, int index) {
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  Scene scene;
  scene.ranks = static_cast<int>(draw(1, 4));
  scene.stores = index % 2 == 0;
  scene.page_size = draw(1, 70);
  scene.first_slab_pages = draw(0, 8);
  scene.kind = std::array{layout::LayoutKind::balanced, layout::LayoutKind::zigzag,
                          layout::LayoutKind::contiguous}[static_cast<size_t>(draw(0, 2))];
  std::vector<int64_t> length(static_cast<size_t>(draw(1, 7)), 0);
  for (int64_t step = 0, steps = draw(1, 5); step < steps; ++step) {
    std::vector<layout::SequenceExtent> extents;
    for (int64_t& n : length) {
      // Whole prompts, chunks, single generated tokens, and sequences that sit a step out.
      const int64_t extend = draw(0, 4) == 0 ? 0 : draw(0, 2) == 0 ? 1 : draw(1, 90);
      extents.push_back({n, extend});
      n += extend;
    }
    scene.steps.push_back(extents);
  }
  return scene;
}

// Stands in for the kernel that forms K and V.
void store_keys(DeviceAttention& attention, const BatchLayout& layout, int rank, int layer) {
  for (const ops::cuda::KvDestination& d : attention.targets(layer))
    for (Half half : {Half::prev, Half::next})
      for (int s = 0; s < layout.num_sequences(); ++s) {
        const layout::Block& block = layout.block(rank, half, s);
        for (int64_t j = 0; j < block.length; ++j) {
          const int64_t row = d.row[layout.row(rank, half, s) + j];
          if (row < 0) continue;
          float* at = static_cast<float*>(d.base) + row * 2 * kDim;
          at[0] = key_of(layer, s, block.start + j);
          at[kDim] = -at[0];
        }
      }
}

void check_outputs(const BatchLayout& layout, int rank, int layer, const std::vector<float>& out,
                   const std::vector<float>& seen) {
  for (Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(rank, half, s);
      for (int64_t j = 0; j < block.length; ++j) {
        const auto row = static_cast<size_t>(layout.row(rank, half, s) + j);
        float sum = 0;
        for (int64_t p = 0; p <= block.start + j; ++p) sum += key_of(layer, s, p);
        ASSERT_EQ(seen[row], static_cast<float>(block.start + j + 1));
        ASSERT_EQ(out[row * kDim], sum) << "sequence " << s << " position " << block.start + j;
        ASSERT_EQ(out[row * kDim + 1], -sum);
      }
    }
}

void run_rank(const Scene& scene, comm::Communicator& comm, std::atomic<int>& stored) {
  const int sequences = static_cast<int>(scene.steps.front().size());
  DeviceKvCacheShape shape;
  shape.num_layers = kLayers;
  shape.num_sequences = sequences;
  shape.row_elements = 2 * kDim;
  shape.page_size = scene.page_size;
  shape.dtype = DType::f32;
  DeviceKvCache cache(shape);
  std::unique_ptr<HostGather> gather;
  if (comm.size() > 1) {
    gather = std::make_unique<HostGather>(comm, scene.stores);
    cache.add_slab(scene.first_slab_pages);
  } else {  // as a rank alone does: every sequence in one piece
    std::vector<int64_t> totals;
    int64_t pages = 0;
    for (const layout::SequenceExtent& e : scene.steps.back()) {
      totals.push_back(e.prefix + e.extend);
      pages += (totals.back() + scene.page_size - 1) / scene.page_size;
    }
    cache.add_slab(pages);
    cache.reserve_totals(totals);
  }
  DeviceAttention attention(comm, gather.get(), cache, nullptr, {});
  layout::KvOwnership ownership(comm.size(), sequences);
  for (const auto& extents : scene.steps) {
    const BatchLayout layout = BatchLayout::make(scene.kind, comm.size(), extents);
    ownership.append(layout);
    attention.begin_step({DType::f32, kDim, kDim, 1, 1}, layout, ownership);
    const int64_t rows = layout.num_tokens(comm.rank());
    std::vector<float> q(static_cast<size_t>(rows * kDim)), out(q.size(), -1),
        seen(static_cast<size_t>(rows), -1);
    for (int layer = 0; layer < kLayers; ++layer) {
      store_keys(attention, layout, comm.rank(), layer);
      attention.exchange(layer);
      attention.await(layer);
      attention.attend(layer, {q.data(), DType::f32, {rows, 1, kDim}}, 1.0,
                       {out.data(), DType::f32, {rows, 1, kDim}},
                       {seen.data(), DType::f32, {rows, 1}});
      check_outputs(layout, comm.rank(), layer, out, seen);
      // What a later layer does not write anew must not be taken for its own.
      if (gather) gather->poison();
    }
  }
  if (gather) stored += gather->stored;
}

TEST(DeviceAttention, EveryQuerySeesItsPastOnce) {
  std::mt19937 rng(11);
  std::atomic<int> stored{0};
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    const Scene scene = make_scene(rng, i);
    SCOPED_TRACE(fmt::format("scene {}: {} ranks, pages of {}", i, scene.ranks, scene.page_size));
    comm::run_threads(scene.ranks,
                      [&](comm::Communicator& comm) { run_rank(scene, comm, stored); });
  }
  EXPECT_GT(stored, 100);  // both ways of exchange were taken
}

}  // namespace
}  // namespace longhaul::attention::cuda
