// What the sm_90a attention kernel does beside plain attention: rows that arrive while it runs,
// merging into earlier results, bits that do not depend on the batch, few queries on many keys.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/gpu/attention_random.h"

namespace longhaul::test {
namespace {

using AttentionFeatures = HopperTest;

class TestStream {
 public:
  TestStream() { LH_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  ~TestStream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <class T>
class Pinned {  // page-locked, so that copies to the device are left to the copy engines
 public:
  explicit Pinned(size_t count) { LH_CUDA(cudaMallocHost(&data_, count * sizeof(T) + 16)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { cudaFreeHost(data_); }
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

// Which of up to 32 sources each row of k and v comes from.
struct Sources {
  int count = 1;
  std::vector<int> owner;         // [kv_rows]
  std::vector<uint32_t> of_word;  // [kv_rows / kReadyRows]
  std::vector<int> order;         // of arrival

  Sources(int64_t rows, Random& random) : count(static_cast<int>(random.between(1, 32))) {
    while (static_cast<int64_t>(owner.size()) < rows) {
      owner.insert(owner.end(), static_cast<size_t>(random.between(1, random.pick({9, 100, 700}))),
                   static_cast<int>(random.between(0, count - 1)));
    }
    owner.resize(static_cast<size_t>(rows));
    of_word.assign(static_cast<size_t>((rows - 1) / gpu_attention::kReadyRows + 1), 0);
    for (size_t row = 0; row < owner.size(); ++row) {
      of_word[row / gpu_attention::kReadyRows] |= 1u << owner[row];
    }
    order.resize(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
  }
};

// k and v are taken away before the kernel starts and come back source by source while it runs: by
// copy engines, since the kernel leaves no multiprocessor for others.
void run_while_rows_arrive(const Device& device, Random& random) {
  const Problem& p = device.problem();
  const Sources sources(p.kv_rows, random);
  const DeviceBuffer<uint32_t> of_word(sources.of_word);
  const auto value = static_cast<uint32_t>(
      random.pick({int64_t{1}, int64_t{0x7fffffff}, int64_t{0xffffffff}, int64_t{77}}));
  const DeviceBuffer<uint32_t> flags(std::vector<uint32_t>(32, value - 1));
  const size_t k_row = static_cast<size_t>(p.shape.num_kv_heads * p.shape.head_dim) * 2;
  const size_t v_row = static_cast<size_t>(p.shape.num_kv_heads * p.shape.head_dim_v) * 2;
  const auto rows = static_cast<size_t>(p.kv_rows);
  const Pinned<char> k(rows * k_row), v(rows * v_row);
  const Pinned<uint32_t> ready(1);
  *ready.get() = value + static_cast<uint32_t>(random.between(0, 3));
  LH_CUDA(cudaMemcpy(k.get(), device.k().get(), rows * k_row, cudaMemcpyDeviceToHost));
  LH_CUDA(cudaMemcpy(v.get(), device.v().get(), rows * v_row, cudaMemcpyDeviceToHost));
  device.k().fill_byte(0xff);
  device.v().fill_byte(0xff);
  LH_CUDA(cudaDeviceSynchronize());

  const TestStream compute, copies;
  gpu_attention::Args args = device.args();
  args.ready = {flags.get(), of_word.get(), value};
  device.forward(args, compute);
  for (const int source : sources.order) {
    if (random.between(0, 2) == 0) usleep(static_cast<useconds_t>(random.between(0, 200)));
    for (size_t row = 0; row < rows;) {
      size_t end = row;
      while (end < rows && sources.owner[end] == sources.owner[row]) ++end;
      if (sources.owner[row] == source) {
        const auto copy = [&](const DeviceBuffer<__nv_bfloat16>& to, const char* from,
                              size_t size) {
          LH_CUDA(cudaMemcpyAsync(reinterpret_cast<char*>(to.get()) + row * size, from + row * size,
                                  (end - row) * size, cudaMemcpyHostToDevice, copies));
        };
        copy(device.k(), k.get(), k_row);
        copy(device.v(), v.get(), v_row);
      }
      row = end;
    }
    LH_CUDA(cudaMemcpyAsync(flags.get() + source, ready.get(), 4, cudaMemcpyHostToDevice, copies));
  }
  LH_CUDA(cudaStreamSynchronize(copies));
  LH_CUDA(cudaStreamSynchronize(compute));
}

TEST_F(AttentionFeatures, WaitsForRowsThatArriveWhileItRuns) {
  const int cases = from_environment("LONGHAUL_GPU_CASES", 200) / 4;
  for (const int head_dim : {64, 128, 192, 256}) {
    for (int i = 0; i < cases && !HasFailure(); ++i) {
      const auto seed = static_cast<uint64_t>(i + 1);
      const Problem p = random_problem(head_dim, head_dim == 192 ? 128 : head_dim, seed);
      Random random(seed);
      const Device device(p);
      run_while_rows_arrive(device, random);
      expect_close(p, device.compare(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

TEST_F(AttentionFeatures, MergesIntoEarlierResults) {
  const int cases = from_environment("LONGHAUL_GPU_CASES", 200) / 4;
  for (const int head_dim : {64, 128, 192, 256}) {
    for (int i = 0; i < cases && !HasFailure(); ++i) {
      const auto seed = static_cast<uint64_t>(i + 1000);
      Problem p = random_problem(head_dim, head_dim == 192 ? 128 : head_dim, seed);
      Random random(seed);
      p.out_type = OutType::f32_accumulate;
      // Each item's keys in two runs; pages are cut at a page's end.
      std::vector<Item> runs[2];
      for (const Item& item : p.items) {
        int64_t cut = random.between(0, item.kv_length);
        if (item.page_begin >= 0) cut -= cut % p.options.page_size;
        Item low = item, high = item;
        low.kv_length = cut;
        high.kv_length -= cut;
        high.causal_offset -= cut;
        high.kv_row += cut;
        if (item.page_begin >= 0) high.page_begin += cut / p.options.page_size;
        runs[0].push_back(low);
        runs[1].push_back(high);
      }
      Device device(p);
      device.clear_results();
      const int first = static_cast<int>(random.between(0, 1));
      for (const int n : {first, 1 - first}) {
        DevicePlan(p, runs[n]).forward(device.args(), nullptr);
        LH_CUDA(cudaDeviceSynchronize());
      }
      expect_close(p, device.compare(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

// In a deterministic plan a query's bits are the same alone and in a batch, and however the queries
// of its sequence are cut into items.
TEST_F(AttentionFeatures, DeterministicBitsDoNotDependOnTheBatch) {
  const int cases = from_environment("LONGHAUL_GPU_CASES", 200) / 8;
  for (const int head_dim : {64, 128, 192, 256}) {
    for (int i = 0; i < cases && !HasFailure(); ++i) {
      const auto seed = static_cast<uint64_t>(i + 2000);
      Problem p = random_problem(head_dim, head_dim == 192 ? 128 : head_dim, seed);
      p.options.deterministic = true;
      Random random(seed);
      Device device(p);
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      const auto out = device.out_bytes();
      const auto lse = device.lse();
      device.poison();
      std::vector<Item> pieces;
      for (const Item& item : p.items) {
        for (int64_t at = 0; at < item.q_length;) {
          Item piece = item;
          piece.q_length = random.between(1, item.q_length - at);
          piece.q_row += at;
          if (item.causal_offset != gpu_attention::kNoMask) piece.causal_offset += at;
          at += piece.q_length;
          pieces.push_back(piece);
        }
      }
      std::shuffle(pieces.begin(), pieces.end(), random.engine());
      const size_t half = pieces.size() / 2;
      for (const auto part : {std::span(pieces).first(half), std::span(pieces).subspan(half)}) {
        DevicePlan(p, part).forward(device.args(), nullptr);
        LH_CUDA(cudaDeviceSynchronize());
      }
      EXPECT_EQ(out, device.out_bytes()) << describe(p);
      const auto again = device.lse();
      EXPECT_EQ(std::memcmp(lse.data(), again.data(), lse.size() * 4), 0) << describe(p);
    }
  }
}

// The same keys in pages and in a row give the same bits.
TEST_F(AttentionFeatures, PagesDoNotChangeBits) {
  for (const int head_dim : {64, 128, 192, 256}) {
    for (const int page_size : {16, 64, 128, 1024}) {
      for (const bool deterministic : {false, true}) {
        Problem rows = one_item({0, 700, 0, 2500, 1800, -1}, 8, 2, head_dim);
        rows.options.deterministic = deterministic;
        rows.options.page_size = page_size;  // the same kernel for both
        rows.page_table = {0};
        Problem pages = rows;
        pages.page_table.resize(static_cast<size_t>(2500 / page_size + 1));
        std::iota(pages.page_table.rbegin(), pages.page_table.rend(), 1);
        pages.kv_rows = (static_cast<int64_t>(pages.page_table.size()) + 1) * page_size;
        pages.items[0].page_begin = 0;
        Device a(rows), b(pages);
        for (int64_t key = 0; key < 2500; key += page_size) {
          const auto count = static_cast<size_t>(std::min<int64_t>(page_size, 2500 - key));
          const auto copy = [&](const auto& to, const auto& from, int dim) {
            const int64_t stride = int64_t{rows.shape.num_kv_heads} * dim;
            LH_CUDA(cudaMemcpy(to.get() + pages.key_row(pages.items[0], key) * stride,
                               from.get() + key * stride, count * static_cast<size_t>(stride) * 2,
                               cudaMemcpyDeviceToDevice));
          };
          copy(b.k(), a.k(), rows.shape.head_dim);
          copy(b.v(), a.v(), rows.shape.head_dim_v);
        }
        a.run();
        b.run();
        LH_CUDA(cudaDeviceSynchronize());
        expect_close(pages, b.compare(), describe(pages));
        EXPECT_EQ(a.out_bytes(), b.out_bytes()) << describe(pages);
      }
    }
  }
}

TEST_F(AttentionFeatures, FewQueriesOnManyKeys) {
  struct Case {
    int group;
    int64_t queries;
  };
  for (const int head_dim : {64, 128, 192, 256}) {
    for (const Case c : {Case{1, 1}, {1, 40}, {4, 1}, {5, 2}, {8, 1}, {8, 7}, {16, 3}, {100, 1}}) {
      const int64_t keys = 7000;
      Problem p = one_item({3, c.queries, 2, keys, keys - c.queries, -1}, 2 * c.group, 2, head_dim);
      p.seed = static_cast<uint64_t>(c.group * 100 + c.queries);
      Device device(p);
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      EXPECT_GT(device.plan().num_splits, 1) << describe(p);
      expect_close(p, device.compare(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

TEST_F(AttentionFeatures, RepeatsBitForBit) {
  const int repeats = from_environment("LONGHAUL_GPU_REPEATS", 50);
  for (const int head_dim : {64, 128, 192, 256}) {
    for (const bool deterministic : {false, true}) {
      for (const int64_t queries : {5, 300, 700}) {
        Problem p = one_item({0, queries, 0, 2600, 2600 - queries, -1}, 8, 1, head_dim);
        p.options.deterministic = deterministic;
        Device device(p);
        device.run();
        LH_CUDA(cudaDeviceSynchronize());
        if (deterministic || queries == 5) {
          EXPECT_EQ(device.plan().num_splits > 1, !deterministic) << describe(p);
        }
        const auto out = device.out_bytes();
        const auto lse = device.lse();
        for (int i = 0; i < repeats; ++i) {
          device.poison();
          device.run();
          LH_CUDA(cudaDeviceSynchronize());
          ASSERT_EQ(out, device.out_bytes()) << describe(p) << " repeat " << i;
          const auto again = device.lse();
          ASSERT_EQ(std::memcmp(lse.data(), again.data(), lse.size() * 4), 0) << describe(p);
        }
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::test
