// Bandwidth of the element-wise operators and speed of the linear layers at the shapes of
// Qwen3-30B-A3B, beside the copy bandwidth and the product 8192^3 of the same minute.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/linear.h"
#include "runtime/ops/cuda/machine_peak.h"
#include "runtime/ops/cuda/qkv.h"
#include "runtime/ops/cuda/random.h"
#include "runtime/ops/cuda/rope.h"

namespace longhaul {
namespace {

using namespace ops::cuda;
using cuda::DeviceTensor;
using cuda::Event;

constexpr int64_t kRows = 16384, kHidden = 2048;

class Bench {
 public:
  explicit Bench(int device) { cuda::open_device(device); }

  DeviceTensor random(DType dtype, Shape shape) {
    DeviceTensor t(dtype, shape, "a benchmark", MemoryUse::activations);
    if (dtype == DType::f32 || dtype == DType::bf16) fill_random(t, ++key_, 0, 1, stream_);
    return t;
  }
  template <class T>
  DeviceTensor table(const std::vector<T>& values, Shape shape) {
    DeviceTensor t(dtype_of<T>(), shape, "a benchmark", MemoryUse::activations);
    LH_CUDA(cudaMemcpy(t.view().data, values.data(), values.size() * sizeof(T),
                       cudaMemcpyHostToDevice));
    return t;
  }

  // Seconds a call: `calls` of them back to back, the best of five turns.
  double seconds(const std::function<void(int)>& call, int calls) {
    Event begin(Event::Timing::on), end(Event::Timing::on);
    double best = 1e9;
    for (int turn = 0; turn < 6; ++turn) {
      begin.record(stream_);
      for (int i = 0; i < calls; ++i) call(i);
      end.record(stream_);
      LH_CUDA(cudaStreamSynchronize(stream_));
      const double t = cuda::milliseconds_between(begin, end) * 1e-3 / calls;
      if (turn > 0 && t < best) best = t;
    }
    return best;
  }
  void bytes_row(const char* name, double bytes, const std::function<void(int)>& call) {
    const double t = seconds(call, 20);
    std::printf("| %-44s | %8.1f | %6.0f | %4.2f |\n", name, t * 1e6, bytes / t * 1e-9,
                bytes / t / copy_);
  }

  void elementwise();
  void qkv(const char* name, DType dtype, int64_t heads, int64_t kv_heads, bool norm,
           int destinations);
  void linear(int64_t rows, int64_t in, int64_t out, DType dtype, DType out_dtype, bool accumulate);
  void memory();  // the operators that move bytes
  void layers();  // the linear layers

 private:
  cuda::Stream stream_;
  uint64_t key_ = 0;
  double copy_ = 1, matmul_ = 1;
};

// Sets of tensors are used in turn, so that none is found in the L2 cache.
constexpr int kSets = 4;

void Bench::elementwise() {
  const Shape shape = {kRows, kHidden};
  const double size = static_cast<double>(kRows * kHidden) * 2;
  std::vector<DeviceTensor> x, y, out, wide;
  for (int i = 0; i < kSets; ++i) {
    x.push_back(random(DType::bf16, shape));
    y.push_back(random(DType::bf16, shape));
    out.push_back(random(DType::bf16, shape));
    wide.push_back(random(DType::f32, shape));
  }
  const auto at = [](std::vector<DeviceTensor>& t, int i) -> DeviceTensor& {
    return t[static_cast<size_t>(i % kSets)];
  };
  const DeviceTensor weight = random(DType::bf16, {kHidden});
  const DeviceTensor weight32 = random(DType::f32, {kHidden});
  bytes_row("rms_norm bf16", 2 * size,
            [&](int i) { rms_norm(at(x, i), weight, 1e-6, at(out, i), stream_); });
  bytes_row("add_rms_norm bf16", 4 * size,
            [&](int i) { add_rms_norm(at(x, i), at(y, i), weight, 1e-6, at(out, i), stream_); });
  bytes_row("rms_norm f32", 4 * size,
            [&](int i) { rms_norm(at(wide, i), weight32, 1e-6, at(wide, i + 1), stream_); });
  bytes_row("add bf16", 3 * size, [&](int i) { add(at(x, i), at(y, i), stream_); });
  bytes_row("convert bf16 to f32", 3 * size,
            [&](int i) { convert(at(x, i), at(wide, i), stream_); });
  bytes_row("convert f32 to bf16", 3 * size,
            [&](int i) { convert(at(wide, i), at(out, i), stream_); });
  bytes_row("fill_random bf16", size, [&](int i) { fill_random(at(x, i), 3, 0, 1, stream_); });

  const DeviceTensor embedding = random(DType::bf16, {151936, kHidden});
  std::vector<int32_t> ids;
  std::vector<int64_t> rows, positions;
  for (int64_t i = 0; i < kRows; ++i) {
    rows.push_back((i * 7919) % 151936);
    ids.push_back(static_cast<int32_t>(rows.back()));
    positions.push_back(i * 61);
  }
  const DeviceTensor did = table(ids, {kRows}), drow = table(rows, {kRows});
  bytes_row("embed bf16", 2 * size, [&](int i) { embed(embedding, did, at(out, i), stream_); });
  bytes_row("gather_rows bf16", 2 * size,
            [&](int i) { gather_rows(embedding, drow, at(out, i), stream_); });

  std::vector<DeviceTensor> gate_up, act;
  const int64_t pairs = kRows * 8, expert = 768;
  for (int i = 0; i < 2; ++i) {
    gate_up.push_back(random(DType::bf16, {pairs, 2 * expert}));
    act.push_back(random(DType::bf16, {pairs, expert}));
  }
  bytes_row("swiglu bf16 [131072, 2 x 768]", static_cast<double>(pairs * expert) * 6, [&](int i) {
    swiglu(gate_up[static_cast<size_t>(i % 2)], act[static_cast<size_t>(i % 2)], stream_);
  });
  const DeviceTensor gate_up_wide = random(DType::bf16, {8192, 2 * 25600});
  const DeviceTensor act_wide = random(DType::bf16, {8192, 25600});
  bytes_row("swiglu bf16 [8192, 2 x 25600]", 8192.0 * 25600 * 6,
            [&](int) { swiglu(gate_up_wide, act_wide, stream_); });

  const DeviceTensor dp = table(positions, {kRows});
  const DeviceTensor df = table(std::vector<double>(64, 1e-2), {64});
  const DeviceTensor cos = random(DType::f32, {kRows, 64}), sin = random(DType::f32, {kRows, 64});
  bytes_row("rope_table, 16384 x 64 angles", static_cast<double>(kRows) * 64 * 8,
            [&](int) { rope_table(dp, df, 1, cos, sin, stream_); });
  const DeviceTensor logits = random(DType::f32, {64, 151936});
  const DeviceTensor token(DType::i32, {64}, "a benchmark", MemoryUse::activations);
  for (const int64_t n : {1, 64})
    bytes_row(n == 1 ? "argmax_rows, 1 x 151936" : "argmax_rows, 64 x 151936",
              static_cast<double>(n) * 151936 * 4, [&, n](int) {
                argmax_rows(logits.view().row_range(0, n), token.view().row_range(0, n), stream_);
              });
}

void Bench::qkv(const char* name, DType dtype, int64_t heads, int64_t kv_heads, bool norm,
                int destinations) {
  const int64_t dim = 128, columns = (heads + 2 * kv_heads) * dim;
  std::vector<DeviceTensor> x, q, kv;
  for (int i = 0; i < 2; ++i) {
    x.push_back(random(dtype, {kRows, columns}));
    q.push_back(random(dtype, {kRows, heads, dim}));
  }
  std::vector<int64_t> order;
  for (int64_t i = 0; i < kRows; ++i) order.push_back(i);
  const DeviceTensor place = table(order, {kRows});
  const DeviceTensor cos = random(DType::f32, {kRows, dim / 2});
  const DeviceTensor sin = random(DType::f32, {kRows, dim / 2});
  const DeviceTensor weight = random(dtype, {dim});
  QkvArgs args;
  args.num_heads = heads;
  args.num_kv_heads = kv_heads;
  args.head_dim = dim;
  args.k_column = heads * dim;
  args.v_column = (heads + kv_heads) * dim;
  if (norm) args.q_norm = weight, args.k_norm = weight;
  args.norm_eps = 1e-6;
  args.cos = cos;
  args.sin = sin;
  args.num_destinations = destinations;
  for (int d = 0; d < destinations; ++d) {
    kv.push_back(random(dtype, {kRows, 2 * kv_heads * dim}));
    args.destinations[static_cast<size_t>(d)] = {kv.back().view().data, place.view().as<int64_t>()};
  }
  const double size = static_cast<double>(dtype_size(dtype)) * static_cast<double>(kRows * dim);
  const double moved = size * static_cast<double>(2 * heads + 2 * kv_heads * (1 + destinations)) +
                       static_cast<double>(kRows * dim) * 4;
  bytes_row(name, moved, [&](int i) {
    args.qkv = x[static_cast<size_t>(i % 2)];
    args.q = q[static_cast<size_t>(i % 2)];
    finish_qkv(args, stream_);
  });
}

void Bench::linear(int64_t rows, int64_t in, int64_t out, DType dtype, DType out_dtype,
                   bool accumulate) {
  const DeviceTensor x = random(dtype, {rows, in}), w = random(dtype, {out, in});
  const DeviceTensor y = random(out_dtype, {rows, out});
  const Linear layer(w, {}, dtype);
  LinearOptions options, fixed;
  options.accumulate = fixed.accumulate = accumulate;
  fixed.deterministic = true;
  const double flops = 2.0 * static_cast<double>(rows * in) * static_cast<double>(out);
  const int calls = flops > 1e11 ? 8 : 50;
  const auto run = [&](const LinearOptions& o) {
    return seconds([&](int) { layer.apply(x, y, stream_, o); }, calls);
  };
  const double first = run(options);
  layer.prepare(rows, out_dtype, stream_, options);
  layer.prepare(rows, out_dtype, stream_, fixed);
  double best = 1, bound = 1;
  for (int turn = 0; turn < 3; ++turn) {
    best = std::min(best, run(options));
    bound = std::min(bound, run(fixed));
  }
  const double bytes = static_cast<double>(x.num_bytes() + w.num_bytes() + y.num_bytes());
  std::printf(
      "| %5ld x %4ld -> %6ld %4s %4s %s | %8.1f | %8.1f | %8.1f | %5.0f | %4.2f | %6.0f |\n",
      static_cast<long>(rows), static_cast<long>(in), static_cast<long>(out),
      std::string(dtype_name(dtype)).c_str(), std::string(dtype_name(out_dtype)).c_str(),
      accumulate ? "+=" : "  ", first * 1e6, best * 1e6, bound * 1e6, flops / best * 1e-12,
      flops / best / matmul_, bytes / best * 1e-9);
}

void Bench::memory() {
  copy_ = copy_ceiling(stream_);
  std::printf("copy %.0f GB/s\n", copy_ * 1e-9);
  std::printf("| 16384 rows of 2048 unless said %13s | us       | GB/s   | of copy |\n", "");
  std::printf("|---|---|---|---|\n");
  elementwise();
  qkv("finish_qkv bf16 32/4, norm, rope, 1 place", DType::bf16, 32, 4, true, 1);
  qkv("finish_qkv bf16 32/4, rope, 1 place", DType::bf16, 32, 4, false, 1);
  qkv("finish_qkv bf16 32/4, norm, rope, 4 places", DType::bf16, 32, 4, true, 4);
  qkv("finish_qkv bf16 32/0 (q only), norm, rope", DType::bf16, 32, 0, true, 0);
  qkv("finish_qkv bf16 0/4 (kv only), norm, 4 places", DType::bf16, 0, 4, true, 4);
  qkv("finish_qkv f32 32/4, norm, rope, 1 place", DType::f32, 32, 4, true, 1);
}

void Bench::layers() {
  matmul_ = matmul_ceiling(stream_);
  std::printf("product 8192^3 %.0f TFLOP/s\n", matmul_ * 1e-12);
  std::printf(
      "| rows x in -> out | first us | tuned us | fixed us | TFLOP/s | of 8192^3 | GB/s |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  const DType bf = DType::bf16, f32 = DType::f32;
  linear(16384, 2048, 5120, bf, bf, false);
  linear(16384, 2048, 1024, bf, bf, false);
  linear(16384, 2048, 4096, bf, bf, false);
  linear(16384, 4096, 2048, bf, bf, false);
  linear(16384, 4096, 2048, bf, bf, true);
  linear(16384, 2048, 128, bf, f32, false);
  linear(16384, 5120, 5120, bf, bf, false);
  linear(4096, 2048, 5120, bf, bf, false);
  linear(4096, 4096, 2048, bf, bf, false);
  linear(1000, 2048, 5120, bf, bf, false);
  linear(1000, 4096, 2048, bf, bf, false);
  linear(64, 2048, 5120, bf, bf, false);
  linear(1, 2048, 5120, bf, bf, false);
  linear(1, 2048, 151936, bf, f32, false);
  linear(16, 2048, 151936, bf, f32, false);
  linear(4096, 2048, 5120, f32, f32, false);
  std::printf("product 8192^3 %.0f TFLOP/s\n", matmul_ceiling(stream_) * 1e-12);
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) {
  std::string why;
  if (longhaul::cuda::device_count(&why) == 0) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
  }
  try {
    const std::string what = argc > 1 ? argv[1] : "all";  // or memory, linear
    longhaul::Bench bench(0);
    if (what != "linear") bench.memory();
    if (what != "memory") bench.layers();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 70;
  }
  return 0;
}
