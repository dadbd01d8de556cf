#pragma once
// One layer's experts with random weights and inputs on the device, for tests and benchmarks.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "moe/cuda/experts.h"
#include "tests/gpu/gpu_test_support.h"
#include "tests/gpu/moe/experts_reference.h"

namespace longhaul::test {

class ExpertsProblem {
 public:
  using Bytes = DeviceBuffer<uint8_t>;

  // `kernel` as in LONGHAUL_MOE_KERNEL, or empty for the device's own choice.
  ExpertsProblem(const moe::cuda::ExpertShape& s, int64_t num_rows, const std::string& kernel,
                 uint64_t seed)
      : shape(s),
        rows(num_rows),
        x(bytes(num_rows * s.hidden)),
        gate_up(bytes(s.num_experts * 2 * s.intermediate * s.hidden)),
        down(bytes(s.num_experts * s.hidden * s.intermediate)),
        before(bytes(num_rows * s.hidden)),
        out(bytes(num_rows * s.hidden)),
        ids(static_cast<size_t>(num_rows * s.top_k)),
        weights(static_cast<size_t>(num_rows * s.top_k)) {
    const auto fill = [&](Bytes& to, int64_t count, uint64_t more, double scale) {
      fill_normal(to.get(), static_cast<size_t>(count), bf16(), seed * 8 + more,
                  static_cast<float>(scale));
    };
    fill(x, rows * s.hidden, 1, 1.0);
    fill(before, rows * s.hidden, 2, 1.0);
    fill(gate_up, s.num_experts * 2 * s.intermediate * s.hidden, 3,
         2.0 / std::sqrt(static_cast<double>(s.hidden)));
    fill(down, s.num_experts * s.hidden * s.intermediate, 4,
         1.0 / std::sqrt(static_cast<double>(s.intermediate)));
    fill_choices(ids.get(), weights.get(), rows, s.top_k, s.num_experts, seed * 8 + 5);
    if (kernel.empty()) {
      unsetenv("LONGHAUL_MOE_KERNEL");
    } else {
      setenv("LONGHAUL_MOE_KERNEL", kernel.c_str(), 1);
    }
    experts = std::make_unique<moe::cuda::Experts>(
        s, ConstTensorView{gate_up.get(), s.dtype, {s.num_experts, 2 * s.intermediate, s.hidden}},
        ConstTensorView{down.get(), s.dtype, {s.num_experts, s.hidden, s.intermediate}});
    scratch = std::make_unique<Bytes>(static_cast<size_t>(experts->scratch_bytes(rows)));
    scratch->fill_byte(0xff);
  }

  bool bf16() const { return shape.dtype == DType::bf16; }

  // Rows [begin, begin + count).
  void apply(bool residual, int64_t begin, int64_t count, cudaStream_t stream = nullptr) {
    const auto at = [&](const Bytes& b) { return b.get() + bytes(begin * shape.hidden); };
    const int64_t k = shape.top_k;
    experts->apply({at(x), shape.dtype, {count, shape.hidden}},
                   {ids.get() + begin * k, DType::i32, {count, k}},
                   {weights.get() + begin * k, DType::f32, {count, k}},
                   {at(out), shape.dtype, {count, shape.hidden}}, residual, scratch->get(), stream);
  }
  void apply(bool residual) {
    if (residual) {
      LH_CUDA(cudaMemcpy(out.get(), before.get(), before.size(), cudaMemcpyDeviceToDevice));
    } else {
      out.fill_byte(0xff);  // NaN
    }
    apply(residual, 0, rows);
  }

  std::vector<double> reference(const std::vector<int64_t>& which, bool residual,
                                bool rounded) const {
    const DeviceBuffer<int64_t> list(which);
    const DeviceBuffer<double> result(which.size() * static_cast<size_t>(shape.hidden));
    ExpertsReference r;
    r.hidden = shape.hidden;
    r.intermediate = shape.intermediate;
    r.top_k = shape.top_k;
    r.bf16 = bf16();
    r.x = x.get();
    r.gate_up = gate_up.get();
    r.down = down.get();
    r.ids = ids.get();
    r.weights = weights.get();
    r.before = residual ? before.get() : nullptr;
    reference_experts(r, list.get(), static_cast<int64_t>(which.size()), rounded, result.get());
    return result.to_host();
  }

  std::vector<double> output(const std::vector<int64_t>& which) const {
    std::vector<double> all;
    std::vector<uint8_t> row(bytes(shape.hidden));
    for (const int64_t r : which) {
      LH_CUDA(cudaMemcpy(row.data(), out.get() + bytes(r * shape.hidden), row.size(),
                         cudaMemcpyDeviceToHost));
      for (int64_t j = 0; j < shape.hidden; ++j) {
        if (bf16()) {
          longhaul::bf16 value;
          std::memcpy(&value, row.data() + 2 * j, 2);
          all.push_back(static_cast<double>(value));
        } else {
          float value = 0;
          std::memcpy(&value, row.data() + 4 * j, 4);
          all.push_back(value);
        }
      }
    }
    return all;
  }

  moe::cuda::ExpertShape shape;
  int64_t rows;
  Bytes x, gate_up, down, before, out;
  DeviceBuffer<int32_t> ids;
  DeviceBuffer<float> weights;
  std::unique_ptr<moe::cuda::Experts> experts;
  std::unique_ptr<Bytes> scratch;

 private:
  size_t bytes(int64_t count) const { return static_cast<size_t>(count * dtype_size(shape.dtype)); }
};

}  // namespace longhaul::test
