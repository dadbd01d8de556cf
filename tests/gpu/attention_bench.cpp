// Times the sm_90a attention kernel alone: attention_bench [heads kv_heads dim tokens causal
// repeats queries deterministic]: the last `queries` of `tokens`. Random normal data, CUDA events,
// the median; one JSON line. scripts/bench_gpu_attention.py times it beside other implementations.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "attention/backends/cuda/attention.h"
#include "tests/gpu/gpu_test_support.h"

namespace {

namespace attention = longhaul::attention::cuda;
using longhaul::test::DeviceBuffer;
using longhaul::test::fill_normal;

double median_ms(const attention::Plan& plan, const attention::Args& args, int repeats) {
  std::vector<cudaEvent_t> marks(static_cast<size_t>(repeats) + 1);
  for (cudaEvent_t& mark : marks) LH_CUDA(cudaEventCreate(&mark));
  LH_CUDA(cudaEventRecord(marks[0]));
  for (size_t i = 1; i < marks.size(); ++i) {
    attention::forward(plan, args, nullptr);
    LH_CUDA(cudaEventRecord(marks[i]));
  }
  LH_CUDA(cudaDeviceSynchronize());
  std::vector<float> spans(static_cast<size_t>(repeats));
  for (size_t i = 0; i < spans.size(); ++i) {
    LH_CUDA(cudaEventElapsedTime(&spans[i], marks[i], marks[i + 1]));
  }
  for (cudaEvent_t mark : marks) LH_CUDA(cudaEventDestroy(mark));
  std::sort(spans.begin(), spans.end());
  return spans[spans.size() / 2];
}

// On the device alone: many calls in one graph, so that no launch waits for the host.
double graph_ms(const attention::Plan& plan, const attention::Args& args) {
  constexpr int kCalls = 20;
  cudaStream_t stream;
  LH_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  LH_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kCalls; ++i) attention::forward(plan, args, stream);
  cudaGraph_t graph;
  cudaGraphExec_t run;
  LH_CUDA(cudaStreamEndCapture(stream, &graph));
  LH_CUDA(cudaGraphInstantiate(&run, graph, 0));
  cudaEvent_t marks[2];
  for (cudaEvent_t& mark : marks) LH_CUDA(cudaEventCreate(&mark));
  std::vector<float> spans(7);
  for (float& span : spans) {
    LH_CUDA(cudaEventRecord(marks[0], stream));
    LH_CUDA(cudaGraphLaunch(run, stream));
    LH_CUDA(cudaEventRecord(marks[1], stream));
    LH_CUDA(cudaStreamSynchronize(stream));
    LH_CUDA(cudaEventElapsedTime(&span, marks[0], marks[1]));
  }
  std::sort(spans.begin(), spans.end());
  return spans[spans.size() / 2] / kCalls;
}

// Milliseconds that the host spends on one call.
double host_ms(const attention::Plan& plan, const attention::Args& args) {
  constexpr int kCalls = 100;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) attention::forward(plan, args, nullptr);
  const auto end = std::chrono::steady_clock::now();
  LH_CUDA(cudaDeviceSynchronize());
  return std::chrono::duration<double, std::milli>(end - start).count() / kCalls;
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::atoi(argv[index]) : otherwise;
  };
  attention::Shape shape;
  shape.num_heads = number(1, 32);
  shape.num_kv_heads = number(2, 4);
  shape.head_dim = number(3, 128);
  shape.head_dim_v = shape.head_dim == 192 ? 128 : shape.head_dim;
  const int64_t tokens = number(4, 8192);
  const bool causal = number(5, 1) != 0;
  const int repeats = number(6, 20);
  const int64_t queries = number(7, static_cast<int>(tokens));
  const bool deterministic = number(8, 0) != 0;

  const auto elements = [&](int heads, int dim) {
    return static_cast<size_t>(tokens * heads * dim);
  };
  const DeviceBuffer<__nv_bfloat16> q(elements(shape.num_heads, shape.head_dim));
  const DeviceBuffer<__nv_bfloat16> k(elements(shape.num_kv_heads, shape.head_dim));
  const DeviceBuffer<__nv_bfloat16> v(elements(shape.num_kv_heads, shape.head_dim_v));
  const DeviceBuffer<__nv_bfloat16> out(elements(shape.num_heads, shape.head_dim_v));
  const DeviceBuffer<float> lse(elements(shape.num_heads, 1));
  fill_normal(q.get(), q.size(), 1, 1.f);
  fill_normal(k.get(), k.size(), 2, 1.f);
  fill_normal(v.get(), v.size(), 3, 1.f);
  const attention::Item item{0, queries, 0, tokens, causal ? tokens - queries : attention::kNoMask};
  attention::PlanOptions options;
  options.deterministic = deterministic;
  const attention::Plan plan =
      attention::make_plan(attention::Kernel::sm90, shape, {&item, 1}, options);
  const DeviceBuffer<std::byte> table(plan.table);
  const DeviceBuffer<unsigned char> workspace(static_cast<size_t>(plan.workspace_bytes));
  workspace.fill_byte(0);

  attention::Args args;
  args.q = q.get();
  args.k = k.get();
  args.v = v.get();
  args.out = out.get();
  args.lse = lse.get();
  args.q_rows = args.kv_rows = tokens;
  args.q_stride = int64_t{shape.num_heads} * shape.head_dim;
  args.k_stride = int64_t{shape.num_kv_heads} * shape.head_dim;
  args.v_stride = int64_t{shape.num_kv_heads} * shape.head_dim_v;
  args.out_stride = int64_t{shape.num_heads} * shape.head_dim_v;
  args.scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  args.table = table.get();
  args.workspace = workspace.get();

  median_ms(plan, args, 3);
  const double ms = median_ms(plan, args, repeats);
  const bool small = ms < 0.2;
  const double device_ms = small ? graph_ms(plan, args) : ms;
  const double host = small ? host_ms(plan, args) : 0;
  std::printf(
      "{\"heads\": %d, \"kv_heads\": %d, \"head_dim\": %d, \"tokens\": %lld, \"queries\": %lld, "
      "\"causal\": %s, \"parts\": %d, \"heads_per_tile\": %d, \"ms\": %.4f, \"graph_ms\": %.4f, "
      "\"host_ms\": %.4f, "
      "\"tflops\": %.1f}\n",
      shape.num_heads, shape.num_kv_heads, shape.head_dim, static_cast<long long>(tokens),
      static_cast<long long>(queries), causal ? "true" : "false", plan.num_splits,
      plan.heads_per_tile, ms, device_ms, host, plan.flops / device_ms / 1e9);
  return 0;
}
