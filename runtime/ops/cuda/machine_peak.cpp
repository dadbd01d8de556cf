#include "runtime/ops/cuda/machine_peak.h"

#include <algorithm>
#include <vector>

#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/ops/cuda/linear.h"
#include "runtime/ops/cuda/random.h"

namespace longhaul::ops::cuda {
namespace {

using longhaul::cuda::DeviceTensor;
using longhaul::cuda::Event;

// The median over a few turns after a first one.
template <class F>
double median_seconds(cudaStream_t stream, F&& work) {
  constexpr int kTurns = 9;
  Event begin(Event::Timing::on), end(Event::Timing::on);
  std::vector<double> times;
  for (int turn = -1; turn < kTurns; ++turn) {
    begin.record(stream);
    work();
    end.record(stream);
    LH_CUDA(cudaStreamSynchronize(stream));
    if (turn >= 0) times.push_back(longhaul::cuda::milliseconds_between(begin, end) * 1e-3);
  }
  std::sort(times.begin(), times.end());
  return times[kTurns / 2];
}

}  // namespace

double matmul_ceiling(cudaStream_t stream) {
  constexpr int64_t n = 8192;
  const auto make = [&] {
    return DeviceTensor(DType::bf16, {n, n}, "measuring the matrix product",
                        MemoryUse::activations);
  };
  const DeviceTensor x = make(), weight = make(), out = make();
  fill_random(x, 1, 0, 1, stream);
  fill_random(weight, 2, 0, 1, stream);
  const Linear layer(weight, {}, DType::bf16);
  layer.prepare(n, DType::bf16, stream);
  const double seconds = median_seconds(stream, [&] { layer.apply(x, out, stream); });
  return 2.0 * static_cast<double>(n * n * n) / seconds;
}

double copy_ceiling(cudaStream_t stream) {
  constexpr int64_t bytes = int64_t{1} << 30;
  const DeviceTensor from(DType::u8, {bytes}, "measuring copies", MemoryUse::activations);
  const DeviceTensor to(DType::u8, {bytes}, "measuring copies", MemoryUse::activations);
  LH_CUDA(cudaMemsetAsync(from.view().data, 1, static_cast<size_t>(bytes), stream));
  const double seconds = median_seconds(stream, [&] {
    LH_CUDA(cudaMemcpyAsync(to.view().data, from.view().data, static_cast<size_t>(bytes),
                            cudaMemcpyDeviceToDevice, stream));
  });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

}  // namespace longhaul::ops::cuda
