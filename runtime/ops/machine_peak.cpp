#include "runtime/ops/machine_peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "runtime/core/thread_pool.h"
#include "runtime/ops/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longhaul::ops {
namespace {

#if defined(__x86_64__)

// Twelve independent chains of VDPBF16PS: 32 multiply-adds each. Returns something that depends on
// all of them, so that none is removed.
__attribute__((target("avx512f,avx512bf16"))) float bf16_dot_loop(int64_t steps, float start) {
  constexpr int kChains = 12;
  __m512 sums[kChains];
  for (__m512& s : sums) s = _mm512_set1_ps(start);
  // bf16 1.0 and 2^-9 in every lane: the sums grow slowly and stay finite.
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __m512bh b = (__m512bh)_mm512_set1_epi16(0x3b00);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbf16_ps(sums[c], a, b);
  }
  alignas(64) float lanes[16];
  float total = 0;
  for (const __m512& s : sums) {
    _mm512_store_ps(lanes, s);
    for (const float lane : lanes) total += lane;
  }
  return total;
}

double bf16_dot_rate(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSteps = 100000;  // some 150 microseconds: shorter than a time slice
  constexpr double kFlopsARound = 2.0 * 32 * 12 * kSteps;
  volatile float sink = 0;
  const auto begin = Clock::now();
  double best = 0;
  for (;;) {
    const auto start = Clock::now();
    sink = bf16_dot_loop(kSteps, sink * 0.0f);
    const auto end = Clock::now();
    best = std::max(best, kFlopsARound / std::chrono::duration<double>(end - start).count());
    if (std::chrono::duration<double>(end - begin).count() >= seconds) return best;
  }
}

bool detect_bf16_dot() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
}

#else

double bf16_dot_rate(double) {
  return 0;
}
bool detect_bf16_dot() {
  return false;
}

#endif

// The sum of the threads' rates, all of them running `rate` at once.
template <class F>
double rate_of_all(int num_threads, F&& rate) {
  std::vector<double> rates(static_cast<size_t>(num_threads));
  ThreadPool pool(num_threads);
  // Each of the tasks keeps its thread busy far longer than the handing out takes, so every thread
  // gets exactly one.
  pool.parallel_for(num_threads,
                    [&](int64_t task, int) { rates[static_cast<size_t>(task)] = rate(); });
  double sum = 0;
  for (double r : rates) sum += r;
  return sum;
}

}  // namespace

MachinePeak measure_machine_peak(int num_threads, double seconds) {
  MachinePeak peak;
  peak.f32_fma_flops =
      rate_of_all(num_threads, [&] { return kernels::multiply_add_rate(seconds); });
  if (cpu_has_bf16_dot())
    peak.bf16_dot_flops = rate_of_all(num_threads, [&] { return bf16_dot_rate(seconds); });
  return peak;
}

bool cpu_has_bf16_dot() {
  static const bool has = detect_bf16_dot();
  return has;
}

const char* cpu_isa_name() {
  if (cpu_has_bf16_dot()) return "AVX-512 BF16";
  return kernels::target_name();
}

}  // namespace longhaul::ops
