// Times a layer's experts and each part: experts_bench [--products] [tokens ...].
// Qwen3-30B-A3B's shape, random data.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>

#include "moe/cuda/grouped_gemm.h"
#include "moe/cuda/permutation.h"
#include "moe/cuda/sm90_gemm.h"
#include "tests/gpu/moe/experts_problem.h"

namespace longhaul::test {
namespace {

namespace mc = moe::cuda;

enum class Manner { rested, full_queue };

// rested: 15 calls after 0.3 s of rest, as scripts time PyTorch. full_queue: the second
// half of 200 ms of calls back to back, when the board has settled at its power limit.
double milliseconds(const std::function<void()>& call, Manner manner) {
  cudaEvent_t from{}, to{};
  LH_CUDA(cudaEventCreate(&from));
  LH_CUDA(cudaEventCreate(&to));
  const auto timed = [&](int calls) {
    LH_CUDA(cudaEventRecord(from));
    for (int i = 0; i < calls; ++i) call();
    LH_CUDA(cudaEventRecord(to));
    LH_CUDA(cudaEventSynchronize(to));
    float ms = 0;
    LH_CUDA(cudaEventElapsedTime(&ms, from, to));
    return static_cast<double>(ms) / calls;
  };
  LH_CUDA(cudaDeviceSynchronize());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (int i = 0; i < 3; ++i) call();
  double result = 0;
  if (manner == Manner::rested) {
    std::vector<double> times;
    for (int i = 0; i < 15; ++i) times.push_back(timed(1));
    std::nth_element(times.begin(), times.begin() + 7, times.end());
    result = times[7];
  } else {
    const int calls = std::max(3, static_cast<int>(100 / timed(3)));
    timed(calls);
    result = timed(calls);
  }
  LH_CUDA(cudaEventDestroy(from));
  LH_CUDA(cudaEventDestroy(to));
  return result;
}

void bench(int64_t rows, const char* kernel, Manner manner, bool products_only) {
  const auto median_ms = [&](const std::function<void()>& call) {
    return milliseconds(call, manner);
  };
  const mc::ExpertShape s{128, 8, 2048, 768, true, DType::bf16};
  ExpertsProblem problem(s, rows, kernel, 1);
  const bool sm90 = std::string(problem.experts->kernel()) == "sm90";
  const int64_t pairs = rows * s.top_k;
  const int tile_rows = sm90 ? mc::kSm90TileRows : mc::kPortableTileRows;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  const int64_t tiles = mc::most_tiles(pairs, s.num_experts, tile_rows);
  DeviceBuffer<int32_t> counts(size(mc::chunks(pairs) * s.num_experts)), begin(size(1025)),
      row(size(pairs)), place(size(pairs)), num_tiles(1);
  DeviceBuffer<mc::RowTile> list(size(tiles));
  DeviceBuffer<uint16_t> wide(size(pairs * s.hidden)), act(size(pairs * s.intermediate));
  DeviceBuffer<float> logits(size(rows * s.num_experts));
  fill_normal(logits.get(), logits.size(), false, 99, 1.f);
  int device = 0, sms = 0;
  LH_CUDA(cudaGetDevice(&device));
  LH_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));

  mc::Permutation p;
  p.pairs = pairs;
  p.top_k = s.top_k;
  p.num_experts = s.num_experts;
  p.tile_rows = tile_rows;
  p.chunk_counts = counts.get();
  p.expert_begin = begin.get();
  p.row = row.get();
  p.place = place.get();
  p.tiles = list.get();
  p.num_tiles = num_tiles.get();
  mc::GroupedGemm g;
  g.tiles = p.tiles;
  g.num_tiles = p.num_tiles;
  g.most_tiles = tiles;
  g.places = pairs;
  g.num_experts = s.num_experts;
  g.multiprocessors = sms;
  g.row = p.row;
  g.a = problem.x.get();
  g.a_rows = rows;
  g.weights = problem.gate_up.get();
  g.out = act.get();
  g.depth = s.hidden;
  g.columns = s.intermediate;
  mc::GroupedGemm h = g;
  h.row = nullptr;
  h.a = act.get();
  h.a_rows = pairs;
  h.weights = problem.down.get();
  h.out = wide.get();
  h.depth = s.intermediate;
  h.columns = s.hidden;
  const auto gemm = [&](const mc::GroupedGemm& which, mc::Product product) {
    if (sm90) {
      mc::sm90_gemm(which, product, nullptr);
    } else {
      LH_CUDA(mc::portable_gemm_bf16(which, product, nullptr));
    }
  };

  LH_CUDA(mc::make_permutation(p, problem.ids.get(), nullptr));
  const double up = median_ms([&] { gemm(g, mc::Product::gate_up); });
  const double down = median_ms([&] { gemm(h, mc::Product::down); });
  const double flop = 2.0 * static_cast<double>(pairs * s.hidden * s.intermediate) * 1e-9;
  std::printf("%-8s %6ld tokens: gate+up %.3f ms %4.0f TFLOP/s | down %.3f ms %4.0f",
              problem.experts->kernel(), static_cast<long>(rows), up, 2 * flop / up, down,
              flop / down);
  if (products_only) {
    std::printf("\n");
    return;
  }
  const double route = median_ms([&] {
    problem.experts->route({logits.get(), DType::f32, {rows, s.num_experts}},
                           {problem.ids.get(), DType::i32, {rows, s.top_k}},
                           {problem.weights.get(), DType::f32, {rows, s.top_k}}, nullptr);
  });
  const double permute =
      median_ms([&] { LH_CUDA(mc::make_permutation(p, problem.ids.get(), nullptr)); });
  const double combine = median_ms([&] {
    LH_CUDA(mc::combine_rows(p, problem.ids.get(), problem.weights.get(), wide.get(),
                             problem.out.get(), s.hidden, false, true, nullptr));
  });
  const double all = median_ms([&] { problem.apply(true, 0, rows); });
  std::printf(
      " | route %.1f us, permute %.1f, combine %.1f | apply %.3f ms %4.0f, products %.0f %%\n",
      1e3 * route, 1e3 * permute, 1e3 * combine, all, 3 * flop / all, 100 * (up + down) / all);
}

}  // namespace
}  // namespace longhaul::test

int main(int argc, char** argv) {
  using longhaul::test::Manner;
  std::vector<int64_t> tokens;
  bool products_only = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--products") {
      products_only = true;
    } else {
      tokens.push_back(std::atol(argv[i]));
    }
  }
  if (tokens.empty()) tokens = {4096, 16384, 65536};
  for (const Manner manner : {Manner::rested, Manner::full_queue}) {
    std::printf("%s\n", manner == Manner::rested ? "rested" : "full queue");
    for (const int64_t n : tokens) longhaul::test::bench(n, "", manner, products_only);
  }
  if (argc == 1) longhaul::test::bench(4096, "portable", Manner::full_queue, false);
  return 0;
}
