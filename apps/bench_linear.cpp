// `longhaul bench linear`: dense layers as the CPU ranks run them, against the machine's peaks.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "runtime/core/check.h"
#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/machine_peak.h"

namespace longhaul::apps {
namespace {

struct Options {
  int64_t in = 0, out = 0;
  std::vector<int64_t> rows;
  std::string dtype;
  int threads = 1;
  bool json = false;
};

struct LayerSize {
  int64_t in, out;
  const char* what;
};

// The layers of Qwen3-0.6B and Qwen3-30B-A3B.
constexpr LayerSize kLayers[] = {
    {1024, 4096, "0.6B q, k, v"},      {2048, 1024, "0.6B attention out"},
    {1024, 6144, "0.6B gate and up"},  {3072, 1024, "0.6B down"},
    {2048, 5120, "30B-A3B q, k, v"},   {4096, 2048, "30B-A3B attention out"},
    {2048, 1536, "30B-A3B expert up"}, {768, 2048, "30B-A3B expert down"},
};
constexpr int64_t kRows[] = {1, 16, 512, 4096};

struct Result {
  DType dtype;
  LayerSize layer;
  int64_t rows;
  double seconds, flops, weight_bytes_per_s;
  double peak, of_peak;  // FLOP/s of the register-only loop measured around this one; the ratio
  double of_peak_while_running;  // by the CPU time of our threads: what a quiet machine would give
  double error_over_rms, error_over_bound;
  std::string kernel;
};

// Uniform in [-1, 1): like normal data it keeps the multipliers busy, and it is quick to make.
Tensor random_tensor(DType dtype, Shape shape, uint64_t seed) {
  Tensor values(DType::f32, shape);
  float* v = values.as<float>();
  for (int64_t i = 0; i < values.num_elements(); ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    v[i] = static_cast<float>(static_cast<int32_t>(seed >> 32)) * 0x1p-31f;
  }
  Tensor result(dtype, shape);
  ops::convert(values, result);
  return result;
}

std::vector<double> row_as_double(ConstTensorView t, int64_t row) {
  std::vector<double> values(static_cast<size_t>(t.shape[1]));
  ops::convert(t.row_range(row, 1), {values.data(), DType::f64, {1, t.shape[1]}});
  return values;
}

// Compares sampled elements with sums in double. The bound is that of a sum of `in` rounded
// products in any order, gamma_in * sum |x w|, and one rounding to the output type.
void check_samples(ConstTensorView x, ConstTensorView weight, ConstTensorView y, Result& r) {
  const double unit = r.dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  const double n = static_cast<double>(x.shape[1]) + 2, gamma = n * unit / (1 - n * unit);
  double worst = 0, squares = 0;
  int64_t count = 0;
  for (int64_t s = 0; s < 12; ++s) {
    const int64_t row = s * (x.rows() - 1) / 11;
    const std::vector<double> xs = row_as_double(x, row), ys = row_as_double(y, row);
    for (int64_t c = 0; c < 24; ++c) {
      const int64_t column = (c * (weight.rows() - 1) / 23 + 37 * s) % weight.rows();
      const std::vector<double> ws = row_as_double(weight, column);
      double sum = 0, absolute = 0;
      for (size_t k = 0; k < xs.size(); ++k) {
        sum += xs[k] * ws[k];
        absolute += std::abs(xs[k] * ws[k]);
      }
      const double error = std::abs(ys[static_cast<size_t>(column)] - sum);
      double bound = gamma * absolute;
      if (r.dtype == DType::bf16) bound += 0x1p-8 * (std::abs(sum) + bound);
      worst = std::max(worst, error);
      // An error that is no number counts as infinitely large.
      r.error_over_bound =
          std::max(r.error_over_bound, std::isfinite(error) ? error / bound : HUGE_VAL);
      squares += sum * sum;
      ++count;
    }
  }
  r.error_over_rms = worst / std::sqrt(squares / static_cast<double>(count));
}

double process_cpu_seconds() {
  timespec t{};
  LH_CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Times {
  double wall, cpu;
};

Times median_seconds(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  work();  // compiles the kernels and touches the memory
  std::vector<double> seconds, cpu_seconds;
  double total = 0;
  while (seconds.size() < 5 || (total < 0.2 && seconds.size() < 1000)) {
    const double cpu_begin = process_cpu_seconds();
    const auto begin = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    cpu_seconds.push_back(process_cpu_seconds() - cpu_begin);
    total += seconds.back();
  }
  return {summarise(seconds).median, summarise(cpu_seconds).median};
}

double peak_of(const ops::MachinePeak& peak, DType dtype) {
  if (dtype == DType::f64) return peak.f32_fma_flops / 2;
  return dtype == DType::bf16 && peak.bf16_dot_flops > 0 ? peak.bf16_dot_flops : peak.f32_fma_flops;
}

// The clock follows load and temperature, so the ceiling is measured on both sides of the work.
double peak_around(const std::function<void()>& work, DType dtype, int threads) {
  constexpr double kSeconds = 0.02;
  const double before = peak_of(ops::measure_machine_peak(threads, kSeconds), dtype);
  work();
  return std::max(before, peak_of(ops::measure_machine_peak(threads, kSeconds), dtype));
}

std::vector<Result> measure_layer(const LayerSize& size, const std::vector<int64_t>& rows,
                                  DType dtype, ThreadPool& pool) {
  const Tensor weight = random_tensor(dtype, {size.out, size.in}, 1);
  const ops::Linear layer(weight, {}, dtype);
  std::vector<Result> results;
  for (const int64_t count : rows) {
    const Tensor x = random_tensor(dtype, {count, size.in}, 2);
    Tensor y(dtype, {count, size.out});
    Result r{};
    r.dtype = dtype;
    r.layer = size;
    r.rows = count;
    r.kernel = layer.kernel_name();
    Times times{};
    r.peak = peak_around([&] { times = median_seconds([&] { layer.apply(x, y, pool); }); }, dtype,
                         pool.num_threads());
    const double work = 2.0 * static_cast<double>(count) * static_cast<double>(size.in * size.out);
    r.seconds = times.wall;
    r.flops = work / times.wall;
    r.of_peak = r.flops / r.peak;
    r.of_peak_while_running = work / times.cpu * pool.num_threads() / r.peak;
    r.weight_bytes_per_s = static_cast<double>(weight.num_bytes()) / r.seconds;
    check_samples(x, weight, y, r);
    results.push_back(r);
  }
  return results;
}

nlohmann::json as_json(const Result& r) {
  return {{"dtype", std::string(dtype_name(r.dtype))},
          {"in", r.layer.in},
          {"out", r.layer.out},
          {"rows", r.rows},
          {"layer", r.layer.what},
          {"median_us", r.seconds * 1e6},
          {"gflops", r.flops / 1e9},
          {"peak_gflops", r.peak / 1e9},
          {"of_peak", r.of_peak},
          {"of_peak_while_running", r.of_peak_while_running},
          {"weight_gb_per_s", r.weight_bytes_per_s / 1e9},
          {"error_over_rms", r.error_over_rms},
          {"error_over_bound", r.error_over_bound},
          {"kernel", r.kernel}};
}

void print_header(const ops::MachinePeak& peak, int threads) {
  std::printf("# %s, %d thread%s; peaks now: float32 multiply-add %.0f GFLOP/s",
              ops::cpu_isa_name(), threads, threads == 1 ? "" : "s", peak.f32_fma_flops / 1e9);
  if (peak.bf16_dot_flops > 0)
    std::printf(", bf16 dot product %.0f GFLOP/s", peak.bf16_dot_flops / 1e9);
  std::printf(
      "\n# of peak: of such a peak measured around each line; run%%: the same by CPU time, for a "
      "machine that others use too"
      "\n# error: largest of 288 samples against sums in double, over their RMS, and over the "
      "bound "
      "of the rounding errors\n%5s %6s %6s %6s %11s %9s %8s %7s %9s %9s %7s  %-22s %s\n",
      "dtype", "in", "out", "rows", "median us", "GFLOP/s", "of peak", "run%", "wt GB/s", "err/rms",
      "/bound", "layer", "kernel");
}

void print_row(const Result& r) {
  std::printf("%5s %6lld %6lld %6lld %11.1f %9.1f %7.1f%% %6.1f%% %9.2f %9.1e %7.3f  %-22s %s\n",
              std::string(dtype_name(r.dtype)).c_str(), static_cast<long long>(r.layer.in),
              static_cast<long long>(r.layer.out), static_cast<long long>(r.rows), r.seconds * 1e6,
              r.flops / 1e9, 100 * r.of_peak, 100 * r.of_peak_while_running,
              r.weight_bytes_per_s / 1e9, r.error_over_rms, r.error_over_bound, r.layer.what,
              r.kernel.c_str());
  std::fflush(stdout);
}

int bench_linear(const Options& o) {
  if ((o.in > 0) != (o.out > 0)) fail(ExitCode::usage, "bench linear: --in and --out go together");
  std::vector<LayerSize> layers(std::begin(kLayers), std::end(kLayers));
  if (o.in > 0) layers = {{o.in, o.out, "as asked"}};
  const std::vector<int64_t> rows =
      o.rows.empty() ? std::vector<int64_t>(std::begin(kRows), std::end(kRows)) : o.rows;
  std::vector<DType> dtypes = {DType::f32, DType::bf16};
  if (!o.dtype.empty()) dtypes = {parse_dtype(o.dtype)};

  const ops::MachinePeak peak = ops::measure_machine_peak(o.threads);
  ThreadPool pool(o.threads);
  if (!o.json) print_header(peak, o.threads);
  nlohmann::json results = nlohmann::json::array();
  bool right = true;
  for (const DType dtype : dtypes)
    for (const LayerSize& layer : layers)
      for (const Result& r : measure_layer(layer, rows, dtype, pool)) {
        right = right && r.error_over_bound <= 1;
        results.push_back(as_json(r));
        if (!o.json) print_row(r);
      }
  if (o.json) {
    const nlohmann::json document = {{"bench", "linear"},
                                     {"isa", ops::cpu_isa_name()},
                                     {"threads", o.threads},
                                     {"peak_f32_gflops", peak.f32_fma_flops / 1e9},
                                     {"peak_bf16_gflops", peak.bf16_dot_flops / 1e9},
                                     {"results", std::move(results)}};
    print_results(document.dump(2) + "\n");
  }
  print_results("");  // whether stdout took all of it
  if (!right) std::fprintf(stderr, "longhaul: bench linear: a result is outside its error bound\n");
  return static_cast<int>(right ? ExitCode::good : ExitCode::different);
}

}  // namespace

Action add_bench_linear(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--in", options->in, "input features (default: layers of Qwen3 models)")
      ->check(whole_number(1, int64_t{1} << 24));
  app.add_option("--out", options->out, "output features")
      ->check(whole_number(1, int64_t{1} << 24));
  app.add_option("--rows", options->rows, "tokens, one or more counts")
      ->delimiter(',')
      ->check(whole_number(1, int64_t{1} << 24));
  app.add_option("--dtype", options->dtype, "f32, bf16 or f64 (default: f32 and bf16)")
      ->check(compute_dtype());
  app.add_option("--threads", options->threads, "threads (default 1)")
      ->check(whole_number(1, kMostThreads));
  app.add_flag("--json", options->json, "one JSON document instead of the table");
  return [options] { return bench_linear(*options); };
}

}  // namespace longhaul::apps
