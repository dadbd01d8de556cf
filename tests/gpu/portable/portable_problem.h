#pragma once
// One attention problem for the tests of the portable kernels: its items, and its tensors on the
// device.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "attention/backends/cuda/portable.h"
#include "tests/gpu/gpu_test_support.h"
#include "tests/gpu/portable/portable_reference.cuh"

namespace longhaul::test::portable {

using attention::cuda::Args;
using attention::cuda::Item;
using attention::cuda::kNoMask;
using attention::cuda::OutType;
using attention::cuda::Plan;
using attention::cuda::PlanOptions;
using attention::cuda::Shape;

struct Problem {
  Shape shape;
  std::vector<Item> items;
  std::vector<int32_t> page_table;
  PlanOptions options;
  int64_t q_rows = 1;
  int64_t kv_rows = 1;
  float q_scale = 1.f;
  OutType out_type = OutType::bf16;
  uint64_t seed = 0;
};

inline std::string describe(const Problem& p) {
  std::string text =
      std::string(dtype_name(p.shape.dtype)) + " D " + std::to_string(p.shape.head_dim) + "/" +
      std::to_string(p.shape.head_dim_v) + " heads " + std::to_string(p.shape.num_heads) + "/" +
      std::to_string(p.shape.num_kv_heads) + " seed " + std::to_string(p.seed) + " q_scale " +
      std::to_string(p.q_scale) + " out " + std::to_string(static_cast<int>(p.out_type)) +
      " pages " + std::to_string(p.options.page_size) + " multiprocessors " +
      std::to_string(p.options.multiprocessors) + " items";
  for (const Item& i : p.items) {
    text += " (" + std::to_string(i.q_row) + "+" + std::to_string(i.q_length) + " kv " +
            std::to_string(i.kv_row) + "+" + std::to_string(i.kv_length) + " off " +
            std::to_string(i.causal_offset) + ")";
    if (text.size() > 600) break;
  }
  return text;
}

inline int64_t key_row(const Problem& p, const Item& item, int64_t key) {
  if (item.page_begin < 0) return item.kv_row + key;
  const int64_t size = p.options.page_size;
  return p.page_table[static_cast<size_t>(item.page_begin + key / size)] * size + key % size;
}

// Device data of a problem. Rows of q, k and v that no item uses are NaN, so that a read too far
// shows; out and lse hold a pattern that a forgotten or a stray write would change.
class Device {
 public:
  explicit Device(const Problem& p)
      : p_(p),
        element_(static_cast<size_t>(dtype_size(p.shape.dtype))),
        q_(bytes(p.q_rows, p.shape.num_heads, p.shape.head_dim)),
        k_(bytes(p.kv_rows, p.shape.num_kv_heads, p.shape.head_dim)),
        v_(bytes(p.kv_rows, p.shape.num_kv_heads, p.shape.head_dim_v)),
        out_(static_cast<size_t>(p.q_rows * p.shape.num_heads * p.shape.head_dim_v) *
             (p.out_type == OutType::bf16 ? 2 : 4)),
        lse_(static_cast<size_t>(p.q_rows * p.shape.num_heads)),
        page_table_(p.page_table) {
    std::vector<char> q_used(static_cast<size_t>(p.q_rows)),
        kv_used(static_cast<size_t>(p.kv_rows));
    for (const Item& item : p.items) {
      std::fill_n(q_used.begin() + item.q_row, item.q_length, 1);
      for (int64_t j = 0; j < item.kv_length; ++j) {
        kv_used[static_cast<size_t>(key_row(p, item, j))] = 1;
      }
    }
    fill(q_, p.shape.num_heads * p.shape.head_dim, q_used, p.seed * 3, p.q_scale);
    fill(k_, p.shape.num_kv_heads * p.shape.head_dim, kv_used, p.seed * 3 + 1, 1.f);
    fill(v_, p.shape.num_kv_heads * p.shape.head_dim_v, kv_used, p.seed * 3 + 2, 1.f);
    poison();
    args_.q = q_.get();
    args_.k = k_.get();
    args_.v = v_.get();
    args_.out = out_.get();
    args_.lse = lse_.get();
    args_.q_rows = p.q_rows;
    args_.kv_rows = p.kv_rows;
    args_.q_stride = int64_t{p.shape.num_heads} * p.shape.head_dim;
    args_.k_stride = int64_t{p.shape.num_kv_heads} * p.shape.head_dim;
    args_.v_stride = int64_t{p.shape.num_kv_heads} * p.shape.head_dim_v;
    args_.out_stride = int64_t{p.shape.num_heads} * p.shape.head_dim_v;
    args_.out_type = p.out_type;
    args_.scale = 1.0 / std::sqrt(static_cast<double>(p.shape.head_dim));
    args_.page_table = page_table_.get();
  }

  void poison() {
    out_.fill_byte(0xff);
    lse_.fill_byte(0xff);
  }
  // Out 0 and lse -inf in the rows of items: what an accumulation begins with.
  void set_empty() {
    const std::vector<float> none(static_cast<size_t>(p_.shape.num_heads), -INFINITY);
    for (const Item& item : p_.items) {
      for (int64_t row = item.q_row; row < item.q_row + item.q_length; ++row) {
        LH_CUDA(cudaMemset(out_.get() + row * args_.out_stride * 4, 0,
                           static_cast<size_t>(args_.out_stride) * 4));
        LH_CUDA(cudaMemcpy(lse_.get() + row * p_.shape.num_heads, none.data(), none.size() * 4,
                           cudaMemcpyHostToDevice));
      }
    }
  }

  // Plans and runs these items (those of the problem, or a share of each one's keys), `times` times
  // on one workspace. Returns the plan.
  Plan run(const std::vector<Item>& items, OutType out_type, int times = 1,
           const attention::cuda::ReadyFlags& ready = {}, cudaStream_t stream = nullptr) {
    Plan plan = attention::cuda::portable::make_plan(p_.shape, items, p_.options);
    table_.emplace_back(plan.table.size());
    workspace_.emplace_back(static_cast<size_t>(plan.workspace_bytes));
    LH_CUDA(cudaMemcpy(table_.back().get(), plan.table.data(), plan.table.size(),
                       cudaMemcpyHostToDevice));
    workspace_.back().fill_byte(0);
    LH_CUDA(cudaDeviceSynchronize());
    last_ = args_;
    last_.out_type = out_type;
    last_.table = table_.back().get();
    last_.workspace = workspace_.back().get();
    last_.ready = ready;
    for (int i = 0; i < times; ++i) attention::cuda::portable::forward(plan, last_, stream);
    return plan;
  }
  // The last run's launch once more.
  void forward_again(const Plan& plan) { attention::cuda::portable::forward(plan, last_, nullptr); }
  Plan run() { return run(p_.items, p_.out_type); }

  Difference difference() const {
    std::vector<ReferenceRow> rows;
    int64_t most = 0;
    for (const Item& item : p_.items) {
      for (int64_t i = 0; i < item.q_length; ++i) {
        const int64_t seen = std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length);
        rows.push_back({item.q_row + i, item.kv_row, item.page_begin, seen});
        most = std::max(most, seen);
      }
    }
    const Shape& s = p_.shape;
    const ReferenceProblem problem{args_.q,
                                   args_.k,
                                   args_.v,
                                   args_.out,
                                   args_.lse,
                                   args_.page_table,
                                   p_.options.page_size,
                                   s.dtype == DType::bf16,
                                   p_.out_type == OutType::bf16,
                                   s.head_dim,
                                   s.head_dim_v,
                                   s.num_heads,
                                   s.num_kv_heads,
                                   args_.scale};
    return compare(problem, rows, most);
  }

  std::vector<unsigned char> out_bytes() const { return out_.to_host(); }
  std::vector<float> lse() const { return lse_.to_host(); }
  const Args& args() const { return args_; }
  DeviceBuffer<unsigned char>& keys() { return k_; }
  DeviceBuffer<unsigned char>& values() { return v_; }

  // Bytes of rows outside all items that no longer hold the pattern.
  int64_t stray_writes() const {
    std::vector<char> used(static_cast<size_t>(p_.q_rows), 0);
    for (const Item& item : p_.items) std::fill_n(used.begin() + item.q_row, item.q_length, 1);
    const auto out = out_.to_host();
    const auto lse = lse_.to_host();
    const size_t row_bytes = out.size() / static_cast<size_t>(p_.q_rows);
    const auto heads = static_cast<size_t>(p_.shape.num_heads);
    int64_t stray = 0;
    for (size_t row = 0; row < used.size(); ++row) {
      if (used[row]) continue;
      for (size_t i = 0; i < row_bytes; ++i) stray += out[row * row_bytes + i] != 0xff;
      for (size_t h = 0; h < heads; ++h) {
        uint32_t bits = 0;
        std::memcpy(&bits, &lse[row * heads + h], 4);
        stray += bits != 0xffffffffu;
      }
    }
    return stray;
  }

 private:
  size_t bytes(int64_t rows, int heads, int dim) const {
    return static_cast<size_t>(rows * heads * dim) * element_;
  }
  void fill(const DeviceBuffer<unsigned char>& buffer, int64_t stride,
            const std::vector<char>& used, uint64_t seed, float scale) {
    buffer.fill_byte(0xff);  // NaN
    std::vector<int64_t> rows;
    for (size_t row = 0; row < used.size(); ++row) {
      if (used[row]) rows.push_back(static_cast<int64_t>(row));
    }
    fill_rows(p_.shape.dtype == DType::bf16, buffer.get(), stride, rows, seed, scale);
  }

  Problem p_;
  size_t element_;
  DeviceBuffer<unsigned char> q_, k_, v_, out_;
  DeviceBuffer<float> lse_;
  DeviceBuffer<int32_t> page_table_;
  std::vector<DeviceBuffer<unsigned char>> table_, workspace_;
  Args args_, last_;
};

}  // namespace longhaul::test::portable
