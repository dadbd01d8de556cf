// Attention by cuDNN against the plain float64 reference of the portable kernels' tests: ragged
// batches whose pieces share keys, rows without keys, LSE. LONGHAUL_GPU_CASES (default 30) sets the
// random cases per head dim.

#include "attention/backends/cudnn/cudnn.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "tests/gpu/portable/portable_problem.h"

namespace longhaul::test {
namespace {

namespace cudnn = attention::cudnn;
using portable::Device;
using portable::Difference;
using portable::Item;
using portable::Problem;

// Runs a problem; milliseconds of the last of `times` launches.
double run(Device& device, const Problem& p, int times = 1) {
  portable::Args args = device.args();
  const cudnn::Plan plan = cudnn::make_plan(
      p.shape, p.items, {args.scale, args.q_stride, args.k_stride, args.v_stride, args.out_stride});
  const DeviceBuffer<unsigned char> table(plan.table.size());
  const DeviceBuffer<unsigned char> workspace(static_cast<size_t>(plan.workspace_bytes));
  LH_CUDA(cudaMemcpy(table.get(), plan.table.data(), plan.table.size(), cudaMemcpyHostToDevice));
  args.table = table.get();
  args.workspace = workspace.get();
  double ms = 0;
  for (int i = 0; i < times; ++i) {
    LH_CUDA(cudaDeviceSynchronize());
    const auto from = std::chrono::steady_clock::now();
    cudnn::forward(plan, args, nullptr);
    LH_CUDA(cudaDeviceSynchronize());
    ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - from).count();
  }
  return ms;
}

void expect_close(const Problem& p, Device& device) {
  const Difference d = device.difference();
  const std::string what = portable::describe(p);
  EXPECT_EQ(d.bad, 0) << what;
  EXPECT_LE(d.max_error, 2 * d.max_naive_error + 0x1p-8 * d.max_exact) << what;
  EXPECT_LE(std::sqrt(d.sum_error2), 2 * std::sqrt(d.sum_naive2)) << what;
  EXPECT_LE(d.max_lse_error, 1e-4) << what;
  EXPECT_EQ(device.stray_writes(), 0) << what;
}

class Cudnn : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
    std::string why_not;
    if (!cudnn::supported(longhaul::cuda::current_device(), {DType::bf16, 128, 128, 8, 2},
                          &why_not)) {
      GTEST_SKIP() << why_not;
    }
  }
};

TEST_F(Cudnn, RandomRagged) {
  const char* const variable = std::getenv("LONGHAUL_GPU_CASES");
  const int cases = variable == nullptr ? 30 : std::atoi(variable);
  const int dims[][2] = {{128, 128}, {64, 64}, {192, 128}, {256, 256}, {32, 32}};
  for (const auto& dim : dims) {
    std::mt19937_64 engine(static_cast<uint64_t>(dim[0]));
    const auto between = [&](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(engine);
    };
    for (int i = 0; i < cases && !HasFailure(); ++i) {
      Problem p;
      p.seed = static_cast<uint64_t>(1000 * dim[0] + i);
      const int kv_heads = static_cast<int>(between(1, 3));
      p.shape = {DType::bf16, dim[0], dim[1], kv_heads * static_cast<int>(between(1, 8)), kv_heads};
      p.q_rows = p.kv_rows = 0;
      for (int64_t sequences = between(1, 9); sequences > 0; --sequences) {
        // Both zigzag halves of one rank of two, from the same first key.
        const int64_t length = between(1, between(0, 1) == 0 ? 100 : 1500);
        const int64_t prefix = between(0, 2) == 0 ? between(0, 600) : 0;
        const bool causal = between(0, 4) != 0;
        p.q_rows += between(0, 5);
        p.kv_rows += between(0, 5);
        for (const int64_t chunk : {int64_t{0}, int64_t{3}}) {
          const int64_t begin = length * chunk / 4, end = length * (chunk + 1) / 4;
          p.items.push_back({p.q_rows, end - begin, p.kv_rows,
                             causal ? prefix + end : prefix + length,
                             causal ? prefix + begin : portable::kNoMask});
          p.q_rows += end - begin;
        }
        p.kv_rows += prefix + length;
      }
      p.q_rows += between(0, 30) + 1;
      p.kv_rows += between(0, 30) + 1;
      Device device(p);
      run(device, p);
      expect_close(p, device);
    }
  }
}

TEST_F(Cudnn, Corners) {
  const std::vector<Item> items = {
      {0, 1, 0, 1, 0},         // one query, one key
      {3, 5, 2, 0, -5},        // no keys: out 0, lse -inf
      {0, 300, 0, 100, -200},  // more queries than keys: the first 200 see nothing
      {0, 256, 0, 256, 0},     {0, 129, 0, 129, 0}, {1, 100, 1, 555, portable::kNoMask},
      {0, 200, 0, 300, -1000},  // every key out of sight
      {0, 200, 0, 300, 50},     // the last queries do not see the last keys
      {0, 200, 0, 120, 50},     // queries past the last key see all of them
  };
  for (const Item& item : items) {
    Problem p;
    p.shape = {DType::bf16, 128, 128, 6, 2};
    p.items = {item};
    p.q_rows = item.q_row + item.q_length + 7;
    p.kv_rows = item.kv_row + item.kv_length + 9;
    p.seed = 77;
    Device device(p);
    run(device, p);
    expect_close(p, device);
  }
}

TEST_F(Cudnn, Speed) {
  for (const bool halves : {false, true}) {
    Problem p;
    p.shape = {DType::bf16, 128, 128, 32, 4};
    p.items = {{0, 8192, 0, 8192, 0}};
    if (halves) {  // both halves of a rank of four, from the same first key
      p.items = {{0, 4096, 0, 8192, 4096}, {4096, 4096, 0, 28672, 24576}};
    }
    p.q_rows = 8192;
    p.kv_rows = halves ? 28672 : 8192;
    Device device(p);
    const double ms = run(device, p, 8);
    const double flops = attention::cuda::portable::make_plan(p.shape, p.items, p.options).flops;
    std::printf("cuDNN, 32/4 heads, D 128, %s: %.3f ms, %.0f TFLOP/s\n",
                halves ? "two zigzag halves" : "causal 8192", ms, flops / ms / 1e9);
  }
}

}  // namespace
}  // namespace longhaul::test
