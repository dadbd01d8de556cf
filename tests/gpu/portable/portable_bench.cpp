// Times the portable attention kernels: portable_bench [repeats]. Random normal data, CUDA events,
// medians; a line per problem. portable_peers.py times PyTorch's kernels on the same problems.

#include "tests/gpu/portable/portable_problem.h"

namespace longhaul::test::portable {
namespace {

struct Case {
  const char* what;
  DType dtype;
  int heads, kv_heads, head_dim, head_dim_v;
  int64_t queries, keys;
  bool causal;
  int page = 0;
};

double median_ms(Device& device, const Problem& p, int repeats) {
  std::vector<float> spans;
  cudaEvent_t from = nullptr, to = nullptr;
  LH_CUDA(cudaEventCreate(&from));
  LH_CUDA(cudaEventCreate(&to));
  Plan plan = device.run(p.items, p.out_type, 2);
  for (int i = 0; i < repeats; ++i) {
    LH_CUDA(cudaEventRecord(from));
    device.forward_again(plan);
    LH_CUDA(cudaEventRecord(to));
    LH_CUDA(cudaDeviceSynchronize());
    spans.emplace_back();
    LH_CUDA(cudaEventElapsedTime(&spans.back(), from, to));
  }
  std::sort(spans.begin(), spans.end());
  return spans[spans.size() / 2];
}

void run(const Case& c, int repeats) {
  Problem p;
  p.shape = {c.dtype, c.head_dim, c.head_dim_v, c.heads, c.kv_heads};
  p.items = {{0, c.queries, 0, c.keys, c.causal ? c.keys - c.queries : kNoMask}};
  p.q_rows = c.queries;
  p.kv_rows = c.keys;
  if (c.page > 0) {  // dealt in an order that shares no neighbours
    p.options.page_size = c.page;
    p.items[0].page_begin = 0;
    const int64_t pages = c.keys / c.page;
    for (int64_t i = 0; i < pages; ++i) {
      p.page_table.push_back(static_cast<int32_t>(i * 37 % pages));
    }
  }
  p.out_type = c.dtype == DType::f32 ? OutType::f32 : OutType::bf16;
  Device device(p);
  const double ms = median_ms(device, p, repeats);
  const Plan plan = attention::cuda::portable::make_plan(p.shape, p.items, p.options);
  std::printf(
      "%-5s %3d/%-3d D %3d/%-3d q %6lld kv %6lld %-6s %9.3f ms %7.1f TFLOP/s  %d parts  %s\n",
      std::string(dtype_name(c.dtype)).c_str(), c.heads, c.kv_heads, c.head_dim, c.head_dim_v,
      static_cast<long long>(c.queries), static_cast<long long>(c.keys),
      c.causal ? "causal" : "full", ms, plan.flops / ms / 1e9, plan.num_splits, c.what);
}

}  // namespace
}  // namespace longhaul::test::portable

int main(int argc, char** argv) {
  using longhaul::DType;
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  const longhaul::test::portable::Case cases[] = {
      {"", DType::bf16, 32, 4, 128, 128, 8192, 8192, true},
      {"", DType::bf16, 32, 4, 128, 128, 32768, 32768, true},
      {"", DType::bf16, 32, 4, 128, 128, 2048, 2048, true},
      {"", DType::bf16, 32, 4, 128, 128, 8192, 8192, false},
      {"", DType::bf16, 64, 8, 64, 64, 8192, 8192, true},
      {"", DType::bf16, 16, 2, 256, 256, 8192, 8192, true},
      {"", DType::bf16, 32, 32, 192, 128, 8192, 8192, true},
      {"", DType::bf16, 32, 32, 96, 96, 8192, 8192, true},
      {"", DType::bf16, 32, 4, 32, 32, 8192, 8192, true},
      {"pages of 64", DType::bf16, 32, 4, 128, 128, 8192, 8192, true, 64},
      {"pages of 16", DType::bf16, 32, 4, 128, 128, 8192, 8192, true, 16},
      {"few queries", DType::bf16, 32, 4, 128, 128, 128, 65536, true},
      {"", DType::f32, 32, 4, 128, 128, 4096, 4096, true},
      {"", DType::f32, 32, 4, 128, 128, 4096, 4096, false},
      {"", DType::f32, 64, 8, 64, 64, 4096, 4096, true},
      {"", DType::f32, 32, 4, 32, 32, 4096, 4096, true},
      {"", DType::f32, 16, 2, 256, 256, 4096, 4096, true},
      {"", DType::f32, 16, 16, 192, 128, 4096, 4096, true},
      {"few queries", DType::f32, 32, 4, 128, 128, 64, 32768, true},
  };
  for (const auto& c : cases) longhaul::test::portable::run(c, repeats);
  return 0;
}
