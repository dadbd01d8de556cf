// The portable attention kernels against a plain float64 reference, over random ragged batches and
// the corners. LONGHAUL_GPU_CASES (default 60) sets the random cases per head dim and type,
// LONGHAUL_GPU_REPEATS (default 30) the repeats that must agree bit for bit.

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "tests/gpu/portable/portable_problem.h"

namespace longhaul::test::portable {
namespace {

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

// bf16: weights and outputs are rounded once each, as in the plain computation, so the error is of
// the same size; twice that is the rule of FlashAttention's own tests. Two more terms matter where
// one or two keys take nearly all the weight of a row: the plain computation rounds normalised
// weights, and 1 exactly, ours rounds exp2(score - top), off by up to 2^-9 relative; and the
// argument of that exp2 is off by 2^-24 of the largest score, about 6 * size, on each side.
// float32: a score is a sum of head_dim products in float32, off by several 2^-24 of its size,
// about 6 * size at most; exp2 and the sums add about 2^-20. The plain computation has exact
// scores, so this comes on top.
void expect_close(const Problem& p, const Difference& d, const std::string& what,
                  float score_size = 1.f) {
  const double size = std::max(score_size, p.q_scale);
  const bool half = p.shape.dtype == DType::bf16;
  double more = half ? 0x1p-9 + 1e-6 * size : 0x1p-20 + 2e-6 * size;
  if (!half && p.out_type == OutType::bf16) more += 0x1p-8;
  EXPECT_EQ(d.bad, 0) << what;
  EXPECT_LE(d.max_error, 2 * d.max_naive_error + more * (size >= 10 ? 5 : d.max_exact)) << what;
  EXPECT_LE(std::sqrt(d.sum_error2), 2 * std::sqrt(d.sum_naive2) + more * std::sqrt(d.sum_exact2))
      << what;
  // LSE is float32 all the way.
  EXPECT_LE(d.max_lse_error, (half ? 1e-4 : 5e-6) * size) << what;
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return *(values.begin() + between(0, static_cast<int64_t>(values.size()) - 1));
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// 1 to 40 sequences with prefixes, each as the two zigzag halves of one of several ranks or whole;
// the keys in one range of rows each, or in pages dealt at random.
Problem random_problem(DType dtype, int head_dim, int head_dim_v, uint64_t seed) {
  Random random(seed);
  Problem p;
  p.seed = seed;
  const int kv_heads = random.pick({1, 1, 2, 3, 4});
  const int group = random.pick({1, 2, 4, 5, 7, 8, 16});
  p.shape = {dtype, head_dim, head_dim_v, kv_heads * group, kv_heads};
  p.q_scale = random.pick({1.f, 1.f, 4.f, 20.f, 100.f});
  p.out_type = dtype == DType::f32 || random.between(0, 2) == 0 ? OutType::f32 : OutType::bf16;
  p.options.multiprocessors = random.pick({1, 16, 132, 132, 2000});
  p.options.deterministic = random.between(0, 3) == 0;
  p.options.page_size = random.pick({0, 0, 16, 32, 64, 64, 256});
  const int64_t page = p.options.page_size;
  const int64_t sequences = random.pick({1, 1, 2, 3, 5, 8, 40});
  const int64_t longest = sequences == 1 ? 3000 : sequences <= 8 ? 1000 : 150;
  const bool causal = random.between(0, 4) != 0;
  p.q_rows = p.kv_rows = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    p.q_rows += random.pick({0, 0, 3, 130});
    p.kv_rows += random.pick({0, 0, 5, 200});
    const int64_t length = random.between(1, random.pick({int64_t{1}, int64_t{130}, longest}));
    const int64_t prefix = random.pick({int64_t{0}, random.between(0, 600)});
    const int64_t total = prefix + length;
    const int64_t ranks = random.pick({1, 1, 2, 3, 4});
    const int64_t rank = random.between(0, ranks - 1);
    const int64_t page_begin = page > 0 ? static_cast<int64_t>(p.page_table.size()) : -1;
    const auto add = [&](int64_t begin, int64_t end) {
      const int64_t seen = causal ? prefix + end : total;
      p.items.push_back({p.q_rows, end - begin, page > 0 ? -1 : p.kv_rows, seen,
                         causal ? prefix + begin : kNoMask, page_begin});
      if (page > 0) p.items.back().kv_row = 0;
      p.q_rows += end - begin;
    };
    const auto cut = [&](int64_t chunk) { return length * chunk / (2 * ranks); };
    if (ranks == 1) {
      add(0, length);
    } else {
      add(cut(rank), cut(rank + 1));
      add(cut(2 * ranks - 1 - rank), cut(2 * ranks - rank));
    }
    p.kv_rows += total;
    if (page > 0)
      p.page_table.resize(p.page_table.size() + static_cast<size_t>((total + page - 1) / page));
  }
  if (page > 0) {  // three pages more than are used
    std::vector<int32_t> pages(p.page_table.size() + 3);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    std::shuffle(pages.begin(), pages.end(), random.engine());
    std::copy_n(pages.begin(), p.page_table.size(), p.page_table.begin());
    p.kv_rows = static_cast<int64_t>(pages.size()) * page;
  }
  p.q_rows = std::max<int64_t>(p.q_rows + random.pick({0, 1, 200}), 1);
  p.kv_rows += random.pick({0, 1, 200});
  return p;
}

// These tests need a device of compute capability 8.0 or later; without one they are skipped.
class Portable : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0, major = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) {
      LH_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    }
    if (major < 8) GTEST_SKIP() << "no device of compute capability 8.0";
  }
};

struct Dims {
  DType dtype;
  int head_dim, head_dim_v;
};
class PortableRandom : public Portable, public testing::WithParamInterface<Dims> {};

TEST_P(PortableRandom, Ragged) {
  const Dims dims = GetParam();
  const int cases = from_environment("LONGHAUL_GPU_CASES", 60);
  double error2 = 0, naive2 = 0, exact2 = 0, worst_lse = 0;
  int split = 0;
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    const Problem p = random_problem(dims.dtype, dims.head_dim, dims.head_dim_v,
                                     static_cast<uint64_t>(1000 * dims.head_dim + i + 1));
    Device device(p);
    const Plan plan = device.run();
    LH_CUDA(cudaDeviceSynchronize());
    split += plan.num_splits > 1;
    const Difference d = device.difference();
    expect_close(p, d, describe(p));
    EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    if ((dims.dtype == DType::f32 || p.out_type == OutType::bf16) && p.q_scale == 1.f) {
      error2 += d.sum_error2;
      naive2 += d.sum_naive2;
      exact2 += d.sum_exact2;
    }
    worst_lse = std::max(worst_lse, d.max_lse_error / std::max(1.f, p.q_scale));
  }
  if (naive2 == 0) return;
  std::printf(
      "%s D %d/%d: %d cases (%d split), rms error %.3f x plain, %.1e of the values, lse %.1e\n",
      std::string(dtype_name(dims.dtype)).c_str(), dims.head_dim, dims.head_dim_v, cases, split,
      std::sqrt(error2 / naive2), std::sqrt(error2 / exact2), worst_lse);
  if (dims.dtype == DType::bf16) {
    // Scores of usual size and bf16 outputs: over millions of elements ours is as good as plain.
    EXPECT_LT(std::sqrt(error2 / naive2), 1.05);
  } else {
    EXPECT_LT(std::sqrt(error2 / exact2), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Dims, PortableRandom,
                         testing::Values(Dims{DType::bf16, 16, 16}, Dims{DType::bf16, 32, 32},
                                         Dims{DType::bf16, 64, 64}, Dims{DType::bf16, 96, 96},
                                         Dims{DType::bf16, 128, 128}, Dims{DType::bf16, 192, 128},
                                         Dims{DType::bf16, 256, 256}, Dims{DType::bf16, 72, 40},
                                         Dims{DType::bf16, 24, 200}, Dims{DType::f32, 16, 16},
                                         Dims{DType::f32, 32, 32}, Dims{DType::f32, 64, 64},
                                         Dims{DType::f32, 128, 128}, Dims{DType::f32, 192, 128},
                                         Dims{DType::f32, 256, 256}, Dims{DType::f32, 72, 40},
                                         Dims{DType::f32, 24, 200}),
                         [](const auto& test) {
                           return std::string(dtype_name(test.param.dtype)) + "_" +
                                  std::to_string(test.param.head_dim) + "_" +
                                  std::to_string(test.param.head_dim_v);
                         });

constexpr Dims kSomeDims[] = {{DType::bf16, 32, 32},   {DType::bf16, 128, 128},
                              {DType::bf16, 192, 128}, {DType::bf16, 256, 256},
                              {DType::f32, 32, 32},    {DType::f32, 128, 128},
                              {DType::f32, 256, 256}};

Problem one_item(Dims dims, Item item, int heads, int kv_heads) {
  Problem p;
  p.shape = {dims.dtype, dims.head_dim, dims.head_dim_v, heads, kv_heads};
  p.items = {item};
  p.out_type = dims.dtype == DType::f32 ? OutType::f32 : OutType::bf16;
  p.q_rows = item.q_row + item.q_length + 7;
  p.kv_rows = item.kv_row + item.kv_length + 9;
  p.seed = 77;
  return p;
}

TEST_F(Portable, Corners) {
  const std::vector<Item> items = {
      {0, 1, 0, 1, 0},         // one query, one key
      {3, 5, 2, 0, -5},        // no keys: out 0, lse -inf
      {0, 300, 0, 100, -200},  // more queries than keys: the first 200 see nothing
      {0, 256, 0, 256, 0},     // whole tiles
      {0, 129, 0, 129, 0},     // one row over
      {0, 64, 0, 1000, 936},   // half a tile of rows
      {1, 100, 1, 555, kNoMask}, {0, 200, 0, 300, -1000},  // every key out of sight
      {0, 200, 0, 300, 50},   // the last queries do not see the last keys
      {0, 200, 0, 120, 50},   // queries past the last key see all of them
      {0, 3, 0, 2500, 2497},  // cut into parts
      {0, 70, 0, 2500, kNoMask},
  };
  for (const Dims dims : kSomeDims) {
    for (const Item& item : items) {
      const Problem p = one_item(dims, item, 6, 2);
      Device device(p);
      device.run();
      LH_CUDA(cudaDeviceSynchronize());
      expect_close(p, device.difference(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

// Each path once, small enough for compute-sanitizer's racecheck: whole and ragged blocks, parts
// that are merged, pages of one and of several rows a block.
TEST_F(Portable, Small) {
  for (const Dims dims : kSomeDims) {
    for (const int page : {0, 16, 64}) {
      Problem p = one_item(dims, {0, 3, 0, 1100, 1097}, 2, 1);
      p.options.page_size = page;
      if (page > 0) {
        p.items[0].page_begin = 0;
        for (int i = (1100 + page - 1) / page; i > 0; --i) p.page_table.push_back(i);
        p.kv_rows = static_cast<int64_t>(p.page_table.size() + 1) * page;
      }
      Device device(p);
      EXPECT_GT(device.run().num_splits, 1);
      LH_CUDA(cudaDeviceSynchronize());
      expect_close(p, device.difference(), describe(p));
    }
  }
}

// Sums over the keys in three launches, in one order, each added to what is there.
TEST_F(Portable, AccumulatesOverKeyRanges) {
  for (const Dims dims : kSomeDims) {
    for (const int64_t queries : {int64_t{1}, int64_t{333}, int64_t{2100}}) {
      const int64_t keys = 2100;
      Problem p = one_item(dims, {5, queries, 3, keys, keys - queries}, 4, 2);
      p.out_type = OutType::f32_accumulate;
      Device device(p);
      device.set_empty();
      const int64_t cuts[] = {0, 640, 1500, keys};
      for (int i : {2, 0, 1}) {
        Item part = p.items[0];
        part.kv_row += cuts[i];
        part.kv_length = cuts[i + 1] - cuts[i];
        part.causal_offset -= cuts[i];
        device.run({part}, OutType::f32_accumulate);
      }
      LH_CUDA(cudaDeviceSynchronize());
      expect_close(p, device.difference(), describe(p));
      EXPECT_EQ(device.stray_writes(), 0) << describe(p);
    }
  }
}

TEST_F(Portable, RepeatsBitForBit) {
  const int repeats = from_environment("LONGHAUL_GPU_REPEATS", 30);
  for (const Dims dims : kSomeDims) {
    for (const int64_t queries : {int64_t{9}, int64_t{1500}}) {  // the first is cut into parts
      const Problem p = one_item(dims, {0, queries, 0, 2600, 2600 - queries}, 8, 2);
      Device device(p);
      const Plan plan = device.run();
      EXPECT_TRUE(plan.num_splits > 1 || queries > 9);
      LH_CUDA(cudaDeviceSynchronize());
      const auto out = device.out_bytes();
      const auto lse = device.lse();
      device.poison();
      device.run(p.items, p.out_type, repeats);  // on one workspace
      LH_CUDA(cudaDeviceSynchronize());
      ASSERT_EQ(out, device.out_bytes()) << describe(p);
      const auto again = device.lse();
      ASSERT_EQ(std::memcmp(lse.data(), again.data(), lse.size() * 4), 0) << describe(p);
    }
  }
}

// In deterministic form a query has the same bits whether its sequence is computed whole or in
// pieces beside other work.
TEST_F(Portable, BitsDoNotDependOnTheBatch) {
  for (const Dims dims : kSomeDims) {
    Problem p = one_item(dims, {0, 700, 0, 1900, 1200}, 4, 2);
    p.options.deterministic = true;
    Device device(p);
    device.run();
    LH_CUDA(cudaDeviceSynchronize());
    const auto out = device.out_bytes();
    const auto lse = device.lse();
    device.poison();
    const int64_t cuts[] = {0, 1, 77, 300, 555, 700};
    std::vector<Item> pieces;
    for (int i : {3, 0, 4, 1, 2}) {
      pieces.push_back({cuts[i], cuts[i + 1] - cuts[i], 0, 1200 + cuts[i + 1], 1200 + cuts[i]});
    }
    device.run(pieces, p.out_type);
    LH_CUDA(cudaDeviceSynchronize());
    EXPECT_EQ(out, device.out_bytes()) << describe(p);
    const auto again = device.lse();
    EXPECT_EQ(std::memcmp(lse.data(), again.data(), lse.size() * 4), 0) << describe(p);
  }
}

// Keys and values arrive while the kernel runs: NaN until a copy from the host brings them, and
// then the flag of their source.
TEST_F(Portable, WaitsForReadyFlags) {
  constexpr int kSources = 5;
  constexpr uint32_t kValue = 0x80000003u;
  for (const Dims dims : kSomeDims) {
    for (const int page : {0, 16, 128}) {
      Problem p = one_item(dims, {0, 300, 0, 1500, 1200}, 4, 2);
      if (page > 0) {
        p.options.page_size = page;
        p.items[0].page_begin = 0;
        const int64_t pages = (1500 + page - 1) / page;
        for (int64_t i = 0; i < pages; ++i) {
          p.page_table.push_back(static_cast<int32_t>((i * 7 + 3) % pages));
        }
        if (pages % 7 == 0) continue;
        p.kv_rows = pages * page;
      }
      Device device(p);
      const auto keys = device.keys().to_host(), values = device.values().to_host();
      unsigned char *pinned_k = nullptr, *pinned_v = nullptr;
      uint32_t* pinned_flag = nullptr;
      LH_CUDA(cudaMallocHost(&pinned_k, keys.size()));
      LH_CUDA(cudaMallocHost(&pinned_v, values.size()));
      LH_CUDA(cudaMallocHost(&pinned_flag, sizeof(uint32_t)));
      std::copy(keys.begin(), keys.end(), pinned_k);
      std::copy(values.begin(), values.end(), pinned_v);
      *pinned_flag = kValue + 1;
      device.keys().fill_byte(0xff);
      device.values().fill_byte(0xff);
      // Sources have consecutive rows, with borders inside the words.
      const auto border = [&](int source) { return p.kv_rows * source / kSources; };
      std::vector<uint32_t> sources(static_cast<size_t>((p.kv_rows + 63) / 64));
      for (int s = 0; s < kSources; ++s) {
        for (int64_t row = border(s); row < border(s + 1); ++row) {
          sources[static_cast<size_t>(row / 64)] |= 1u << s;
        }
      }
      const DeviceBuffer<uint32_t> flags(std::vector<uint32_t>(kSources, kValue - 5));
      const DeviceBuffer<uint32_t> row_sources(sources);
      cudaStream_t copies = nullptr, compute = nullptr;
      LH_CUDA(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
      LH_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
      device.run(p.items, p.out_type, 1, {flags.get(), row_sources.get(), kValue}, compute);
      for (int s : {3, 0, 4, 1, 2}) {
        std::this_thread::sleep_for(std::chrono::microseconds(300));
        const auto bring = [&](DeviceBuffer<unsigned char>& to, const unsigned char* from) {
          const size_t row = to.size() / static_cast<size_t>(p.kv_rows);
          const size_t first = static_cast<size_t>(border(s)) * row;
          const size_t last = static_cast<size_t>(border(s + 1)) * row;
          LH_CUDA(cudaMemcpyAsync(to.get() + first, from + first, last - first,
                                  cudaMemcpyHostToDevice, copies));
        };
        bring(device.keys(), pinned_k);
        bring(device.values(), pinned_v);
        LH_CUDA(cudaMemcpyAsync(flags.get() + s, pinned_flag, 4, cudaMemcpyHostToDevice, copies));
      }
      LH_CUDA(cudaDeviceSynchronize());
      expect_close(p, device.difference(), describe(p));
      LH_CUDA(cudaStreamDestroy(copies));
      LH_CUDA(cudaStreamDestroy(compute));
      LH_CUDA(cudaFreeHost(pinned_k));
      LH_CUDA(cudaFreeHost(pinned_v));
      LH_CUDA(cudaFreeHost(pinned_flag));
    }
  }
}

TEST_F(Portable, NoItemsIsNoWork) {
  const Problem p = one_item({DType::bf16, 64, 64}, {0, 0, 0, 4, 0}, 2, 1);
  Device device(p);
  device.run();
  LH_CUDA(cudaDeviceSynchronize());
  EXPECT_EQ(device.stray_writes(), 0);
}

TEST_F(Portable, OffsetsPast2To31Elements) {
  // 600,000 rows x 32 heads x 128 are 2.46e9 elements; the item sits at the end of q and of k, v.
  const Problem p = one_item({DType::bf16, 128, 128}, {599'000, 700, 599'100, 800, 100}, 32, 32);
  Device device(p);
  device.run();
  LH_CUDA(cudaDeviceSynchronize());
  expect_close(p, device.difference(), describe(p));
}

}  // namespace
}  // namespace longhaul::test::portable
