#pragma once
// Random attention problems for the GPU tests.

#include <cstdlib>
#include <numeric>
#include <random>

#include "tests/gpu/attention_problem.h"

namespace longhaul::test {

inline int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
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

// Gives sequences their pages, in random order among each other, after the rows without pages.
class PageAllocator {
 public:
  PageAllocator(Problem& problem, Random& random) : p_(problem), random_(random) {}
  // First entry of the page table for `keys` keys; -1 where the problem has no pages.
  int64_t take(int64_t keys) {
    if (p_.options.page_size == 0) return -1;
    const auto begin = static_cast<int64_t>(p_.page_table.size());
    p_.page_table.resize(p_.page_table.size() +
                         static_cast<size_t>((keys - 1) / p_.options.page_size + 1));
    return begin;
  }
  // Once kv_rows covers all rows without pages.
  void place() {
    if (p_.page_table.empty()) return;
    const auto first = static_cast<int32_t>((p_.kv_rows - 1) / p_.options.page_size + 1);
    std::iota(p_.page_table.begin(), p_.page_table.end(), first);
    std::shuffle(p_.page_table.begin(), p_.page_table.end(), random_.engine());
    p_.kv_rows = (first + static_cast<int64_t>(p_.page_table.size())) * p_.options.page_size;
  }

 private:
  Problem& p_;
  Random& random_;
};

// 1 to 40 sequences with prefixes, each as the two zigzag halves of one of several ranks or whole.
inline Problem random_problem(int head_dim, int head_dim_v, uint64_t seed) {
  Random random(seed);
  Problem p;
  p.seed = seed;
  const int kv_heads = static_cast<int>(random.pick({1, 1, 2, 3, 4}));
  const int group = static_cast<int>(random.pick({1, 2, 4, 5, 7, 8, 16}));
  p.shape = {DType::bf16, head_dim, head_dim_v, kv_heads * group, kv_heads};
  p.q_scale = random.pick({1.f, 1.f, 4.f, 20.f, 100.f});
  p.out_type = random.between(0, 2) == 0 ? OutType::f32 : OutType::bf16;
  p.options.page_size = static_cast<int>(random.pick({0, 0, 0, 16, 32, 64, 64, 256}));
  p.options.deterministic = random.between(0, 4) == 0;
  // Few and many, so that keys are cut into no, few and many parts.
  p.options.multiprocessors = static_cast<int>(random.pick({132, 132, 132, 8, 1000}));
  PageAllocator pages(p, random);
  const int64_t sequences = random.pick({1, 1, 2, 3, 5, 8, 40});
  const int64_t longest = sequences == 1 ? 3000 : sequences <= 8 ? 1000 : 150;
  const bool causal = random.between(0, 4) != 0;
  for (int64_t s = 0; s < sequences; ++s) {
    p.q_rows += random.pick({0, 0, 3, 130});
    p.kv_rows += random.pick({0, 0, 5, 200});
    const int64_t length = random.between(1, random.pick({int64_t{1}, int64_t{130}, longest}));
    const int64_t prefix = random.pick({int64_t{0}, random.between(0, 600)});
    const int64_t total = prefix + length;
    const int64_t page_begin = random.between(0, 5) != 0 ? pages.take(total) : -1;
    const int64_t ranks = random.pick({1, 1, 2, 3, 4});
    const int64_t rank = random.between(0, ranks - 1);
    const auto add = [&](int64_t begin, int64_t end) {
      const int64_t seen = causal ? prefix + end : total;
      p.items.push_back({p.q_rows, end - begin, p.kv_rows, seen,
                         causal ? prefix + begin : gpu_attention::kNoMask, page_begin});
      p.q_rows += end - begin;
    };
    const auto cut = [&](int64_t chunk) { return length * chunk / (2 * ranks); };
    if (ranks == 1) {
      add(0, length);
    } else {
      add(cut(rank), cut(rank + 1));
      add(cut(2 * ranks - 1 - rank), cut(2 * ranks - rank));
    }
    if (page_begin < 0) p.kv_rows += total;
  }
  p.q_rows += random.pick({0, 1, 200});
  p.kv_rows += random.pick({0, 1, 200});
  p.q_rows = std::max<int64_t>(p.q_rows, 1);
  pages.place();
  return p;
}

// One item, with a few unused rows around it.
inline Problem one_item(Item item, int heads, int kv_heads, int head_dim = 128) {
  Problem p;
  p.shape = {DType::bf16, head_dim, head_dim == 192 ? 128 : head_dim, heads, kv_heads};
  p.items = {item};
  p.q_rows = item.q_row + item.q_length + 7;
  p.kv_rows = item.kv_row + item.kv_length + 9;
  p.seed = 77;
  return p;
}

// These tests need a device of compute capability 9.0; without one they are skipped.
class HopperTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0, major = 0, minor = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) {
      LH_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
      LH_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    }
    if (major != 9 || minor != 0) GTEST_SKIP() << "needs a GPU of compute capability 9.0 (Hopper)";
  }
};

}  // namespace longhaul::test
