// Shapes, views, ownership and accounting of tensors.
#include "runtime/core/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace longhaul {
namespace {

TEST(Shape, CountsAndCompares) {
  const Shape s = {3, 8, 64};
  EXPECT_EQ(s.rank(), 3);
  EXPECT_EQ(s.num_elements(), 3 * 8 * 64);
  EXPECT_EQ(s.row_elements(), 8 * 64);
  EXPECT_EQ(s.to_string(), "[3, 8, 64]");
  EXPECT_EQ(s, Shape(s.dims()));
  EXPECT_FALSE(s == Shape({3, 8}));
  EXPECT_FALSE(s == Shape({3, 64, 8}));
  EXPECT_EQ(Shape().num_elements(), 1) << "a scalar";
  EXPECT_EQ(Shape({0, 5}).num_elements(), 0);
  EXPECT_EQ(Shape({0, 5}).row_elements(), 5);
  EXPECT_EQ(Shape({int64_t{1} << 33}).num_elements(), int64_t{1} << 33);
  EXPECT_EQ(Shape({1, 2, 3, 4}).num_elements(), 24);
  EXPECT_THROW(Shape({1, 2, 3, 4, 5}), Error);
}

TEST(Tensor, RowsAndShapesOfViews) {
  Tensor t(DType::i32, {5, 2, 3});
  for (int i = 0; i < 30; ++i) t.as<int32_t>()[i] = i;
  const TensorView middle = t.view().row_range(1, 3);
  EXPECT_EQ(middle.shape, Shape({3, 2, 3}));
  EXPECT_EQ(middle.row_bytes(), 24);
  EXPECT_EQ(middle.as<int32_t>()[0], 6);
  EXPECT_EQ(middle.row_range(2, 1).as<int32_t>()[5], 23);
  EXPECT_EQ(middle.reshaped({9, 2}).row_range(8, 1).as<int32_t>()[1], 23);
  EXPECT_EQ(t.view().row_range(5, 0).num_elements(), 0);
  EXPECT_EQ(t.view().row_range(0, 5).data, t.data());
  EXPECT_THROW(t.view().row_range(4, 2), Error);
  EXPECT_THROW(t.view().row_range(-1, 2), Error);
  EXPECT_THROW(t.view().row_range(0, -1), Error);
  EXPECT_THROW(t.view().reshaped({7, 4}), Error);
  EXPECT_THROW(t.as<float>(), Error);
}

TEST(Tensor, OwnsAndMoves) {
  Tensor a = Tensor::zeros(DType::f32, {4, 4});
  for (int i = 0; i < 16; ++i) EXPECT_EQ(a.as<float>()[i], 0.0f);
  const void* data = a.data();
  Tensor b = std::move(a);
  EXPECT_FALSE(a.defined());  // NOLINT(bugprone-use-after-move): a moved-from tensor is undefined
  EXPECT_EQ(b.data(), data);
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_FALSE(Tensor().defined());
  EXPECT_TRUE(Tensor(DType::f32, {0, 7}).defined()) << "empty is not undefined";
}

TEST(Tensor, IsAligned) {
  for (int64_t n = 0; n < 300; n += 7) {
    const Tensor t(DType::bf16, {n});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data()) % 64, 0u);
  }
}

TEST(Tensor, SaysHowMuchWhenMemoryRunsOut) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer ends the program on such a request";
#endif
  try {
    const Tensor t(DType::f32, {int64_t{1} << 45});
    FAIL() << "128 TiB";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::resource);
    EXPECT_NE(std::string(e.what()).find("134217728.0 MiB"), std::string::npos) << e.what();
  }
}

TEST(Memory, CountsByUse) {
  const auto now = [](MemoryUse use) { return memory_figures(use).current_bytes; };
  const int64_t weights = now(MemoryUse::weights), cache = now(MemoryUse::kv_cache);
  reset_memory_peaks();
  const int64_t others = memory_figures_without_weights().peak_bytes;
  {
    const Tensor a(DType::f32, {100}, MemoryUse::weights);
    Tensor b(DType::bf16, {100}, MemoryUse::kv_cache);
    EXPECT_EQ(now(MemoryUse::weights) - weights, 400);
    EXPECT_EQ(now(MemoryUse::kv_cache) - cache, 200);
    b = Tensor();
    EXPECT_EQ(now(MemoryUse::kv_cache), cache);
    const Tensor c(DType::u8, {150}, MemoryUse::exchange);
  }
  EXPECT_EQ(now(MemoryUse::weights), weights);
  EXPECT_EQ(memory_figures(MemoryUse::weights).peak_bytes - weights, 400);
  EXPECT_EQ(memory_figures_without_weights().peak_bytes - others, 200)
      << "the peak of the sum, not the sum of the peaks";
}

TEST(Memory, PeaksAreRightAcrossThreads) {
  const int64_t before = memory_figures(MemoryUse::exchange).current_bytes;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([] {
      for (int i = 0; i < 2000; ++i) const Tensor x(DType::u8, {64}, MemoryUse::exchange);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(memory_figures(MemoryUse::exchange).current_bytes, before);
  EXPECT_LE(memory_figures(MemoryUse::exchange).peak_bytes, before + 4 * 64 + 150);
}

}  // namespace
}  // namespace longhaul
