#pragma once
// One attention problem for the GPU tests: its items, and its tensors on the device.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "attention/backends/cuda/attention.h"
#include "attention/backends/cuda/attention_sm90_tile.h"
#include "tests/gpu/attention_reference.cuh"

namespace longhaul::test {

namespace gpu_attention = attention::cuda;
using gpu_attention::Item;
using gpu_attention::OutType;
using gpu_attention::PlanOptions;

struct Problem {
  gpu_attention::Shape shape;
  std::vector<Item> items;
  int64_t q_rows = 0;
  int64_t kv_rows = 0;
  float q_scale = 1.f;
  OutType out_type = OutType::bf16;
  PlanOptions options;
  std::vector<int32_t> page_table;
  uint64_t seed = 0;

  int64_t key_row(const Item& item, int64_t key) const {
    if (item.page_begin < 0) return item.kv_row + key;
    const int64_t page = page_table[static_cast<size_t>(item.page_begin + key / options.page_size)];
    return page * options.page_size + key % options.page_size;
  }
};

inline std::string describe(const Problem& p) {
  std::string text =
      "D " + std::to_string(p.shape.head_dim) + " heads " + std::to_string(p.shape.num_heads) +
      "/" + std::to_string(p.shape.num_kv_heads) + " seed " + std::to_string(p.seed) + " q_scale " +
      std::to_string(p.q_scale) + " out " + std::to_string(static_cast<int>(p.out_type)) +
      " page " + std::to_string(p.options.page_size) + " deterministic " +
      std::to_string(p.options.deterministic) + " processors " +
      std::to_string(p.options.multiprocessors) + " items";
  for (const Item& i : p.items) {
    text += " (" + std::to_string(i.q_row) + "+" + std::to_string(i.q_length) + " kv " +
            std::to_string(i.page_begin >= 0 ? i.page_begin : i.kv_row) + "+" +
            std::to_string(i.kv_length) + " off " + std::to_string(i.causal_offset) + ")";
    if (text.size() > 600) break;
  }
  return text;
}

// The work table and workspace of one plan on the device.
class DevicePlan {
 public:
  DevicePlan(const Problem& p, std::span<const Item> items)
      : plan_(gpu_attention::make_plan(gpu_attention::Kernel::sm90, p.shape, items, p.options)),
        table_(plan_.table),
        workspace_(static_cast<size_t>(plan_.workspace_bytes)) {
    workspace_.fill_byte(0xff);  // partial results need not be zero
    LH_CUDA(cudaMemset(workspace_.get(), 0, gpu_attention::sm90::kWorkspaceHeader));
  }
  const gpu_attention::Plan& plan() const { return plan_; }
  void forward(gpu_attention::Args args, cudaStream_t stream) const {
    args.table = table_.get();
    args.workspace = workspace_.get();
    gpu_attention::forward(plan_, args, stream);
  }

 private:
  gpu_attention::Plan plan_;
  DeviceBuffer<std::byte> table_;
  DeviceBuffer<unsigned char> workspace_;
};

// Device data of a problem. Rows of q, k and v that no item uses are NaN, so that a read too far
// shows; out and lse hold a pattern that a forgotten or a stray write would change.
class Device {
 public:
  explicit Device(const Problem& p)
      : p_(p),
        q_(size(p.q_rows, p.shape.num_heads, p.shape.head_dim)),
        k_(size(p.kv_rows, p.shape.num_kv_heads, p.shape.head_dim)),
        v_(size(p.kv_rows, p.shape.num_kv_heads, p.shape.head_dim_v)),
        out_(size(p.q_rows, p.shape.num_heads, p.shape.head_dim_v) *
             (p.out_type == OutType::bf16 ? 2 : 4)),
        lse_(static_cast<size_t>(p.q_rows * p.shape.num_heads)),
        pages_(p.page_table),
        plan_(p, p.items) {
    fill(q_, p.shape.num_heads * p.shape.head_dim, true, p.seed * 3, p.q_scale);
    fill(k_, p.shape.num_kv_heads * p.shape.head_dim, false, p.seed * 3 + 1, 1.f);
    fill(v_, p.shape.num_kv_heads * p.shape.head_dim_v, false, p.seed * 3 + 2, 1.f);
    poison();
  }

  const Problem& problem() const { return p_; }
  const gpu_attention::Plan& plan() const { return plan_.plan(); }
  const DeviceBuffer<__nv_bfloat16>& k() const { return k_; }
  const DeviceBuffer<__nv_bfloat16>& v() const { return v_; }

  void poison() {
    out_.fill_byte(0xff);
    lse_.fill_byte(0xff);
  }

  // What a first merge finds: out 0 and lse -inf in the rows of items, elsewhere the pattern.
  void clear_results() {
    const auto heads = static_cast<size_t>(p_.shape.num_heads);
    const size_t row_bytes = out_.size() / static_cast<size_t>(p_.q_rows);
    for (const Item& item : p_.items) {
      const auto first = static_cast<size_t>(item.q_row),
                 count = static_cast<size_t>(item.q_length);
      if (count == 0) continue;
      const std::vector<float> empty(count * heads, -INFINITY);
      LH_CUDA(cudaMemset(out_.get() + first * row_bytes, 0, count * row_bytes));
      LH_CUDA(cudaMemcpy(lse_.get() + first * heads, empty.data(), empty.size() * 4,
                         cudaMemcpyHostToDevice));
    }
  }

  // Every element of one row of k, all kv heads.
  void set_key(int64_t row, float value) {
    const int64_t stride = int64_t{p_.shape.num_kv_heads} * p_.shape.head_dim;
    const std::vector<__nv_bfloat16> key(static_cast<size_t>(stride), __float2bfloat16(value));
    LH_CUDA(
        cudaMemcpy(k_.get() + row * stride, key.data(), key.size() * 2, cudaMemcpyHostToDevice));
  }

  gpu_attention::Args args() const {
    gpu_attention::Args args;
    args.q = q_.get();
    args.k = k_.get();
    args.v = v_.get();
    args.out = out_.get();
    args.lse = lse_.get();
    args.q_rows = p_.q_rows;
    args.kv_rows = p_.kv_rows;
    args.q_stride = int64_t{p_.shape.num_heads} * p_.shape.head_dim;
    args.k_stride = int64_t{p_.shape.num_kv_heads} * p_.shape.head_dim;
    args.v_stride = int64_t{p_.shape.num_kv_heads} * p_.shape.head_dim_v;
    args.out_stride = int64_t{p_.shape.num_heads} * p_.shape.head_dim_v;
    args.out_type = p_.out_type;
    args.scale = 1.0 / std::sqrt(static_cast<double>(p_.shape.head_dim));
    args.page_table = p_.page_table.empty() ? nullptr : pages_.get();
    return args;
  }
  void forward(const gpu_attention::Args& args, cudaStream_t stream) const {
    plan_.forward(args, stream);
  }
  void run() const { forward(args(), nullptr); }

  Difference compare() const {
    std::vector<ReferenceRow> rows;
    int64_t most = 0;
    for (const Item& item : p_.items) {
      for (int64_t i = 0; i < item.q_length; ++i) {
        const int64_t seen = std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length);
        rows.push_back({item.q_row + i, item.kv_row, seen, item.page_begin});
        most = std::max(most, seen);
      }
    }
    const gpu_attention::Shape& s = p_.shape;
    ReferenceProblem problem{q_.get(),
                             k_.get(),
                             v_.get(),
                             out_.get(),
                             lse_.get(),
                             p_.out_type != OutType::bf16,
                             s.head_dim,
                             s.head_dim_v,
                             s.num_heads,
                             s.num_kv_heads,
                             int64_t{s.num_heads} * s.head_dim,
                             int64_t{s.num_kv_heads} * s.head_dim,
                             int64_t{s.num_kv_heads} * s.head_dim_v,
                             int64_t{s.num_heads} * s.head_dim_v,
                             static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))};
    problem.page_table = pages_.get();
    problem.page_size = std::max(p_.options.page_size, 1);
    return compare_with_reference(problem, rows, most);
  }

  std::vector<unsigned char> out_bytes() const { return out_.to_host(); }
  std::vector<float> lse() const { return lse_.to_host(); }

  // Bytes of rows outside all items that no longer hold the pattern.
  int64_t stray_writes() const {
    std::vector<char> used(static_cast<size_t>(p_.q_rows), 0);
    for (const Item& item : p_.items) {
      std::fill_n(used.begin() + item.q_row, item.q_length, 1);
    }
    const auto out = out_.to_host();
    const auto lse = lse_.to_host();
    const size_t row_bytes = out.size() / static_cast<size_t>(p_.q_rows);
    int64_t stray = 0;
    for (size_t row = 0; row < used.size(); ++row) {
      if (used[row]) continue;
      const auto first = out.begin() + static_cast<int64_t>(row * row_bytes);
      stray += std::count_if(first, first + static_cast<int64_t>(row_bytes),
                             [](unsigned char b) { return b != 0xff; });
      for (int h = 0; h < p_.shape.num_heads; ++h) {
        uint32_t bits = 0;
        std::memcpy(
            &bits, &lse[row * static_cast<size_t>(p_.shape.num_heads) + static_cast<size_t>(h)], 4);
        stray += bits != 0xffffffffu;
      }
    }
    return stray;
  }

 private:
  static size_t size(int64_t rows, int heads, int dim) {
    return static_cast<size_t>(rows * heads * dim);
  }

  void fill(const DeviceBuffer<__nv_bfloat16>& buffer, int64_t stride, bool queries, uint64_t seed,
            float scale) {
    buffer.fill_byte(0xff);  // NaN
    const auto rows = [&](int64_t first, int64_t count) {
      if (count == 0) return;
      fill_normal(buffer.get() + first * stride, static_cast<size_t>(count * stride),
                  seed * 1000003 + static_cast<uint64_t>(first), scale);
    };
    for (const Item& item : p_.items) {
      if (queries) {
        rows(item.q_row, item.q_length);
      } else if (item.page_begin < 0) {
        rows(item.kv_row, item.kv_length);
      } else {
        for (int64_t key = 0; key < item.kv_length; key += p_.options.page_size) {
          rows(p_.key_row(item, key),
               std::min<int64_t>(p_.options.page_size, item.kv_length - key));
        }
      }
    }
  }

  Problem p_;
  DeviceBuffer<__nv_bfloat16> q_, k_, v_;
  DeviceBuffer<unsigned char> out_;
  DeviceBuffer<float> lse_;
  DeviceBuffer<int32_t> pages_;
  DevicePlan plan_;
};

// A kernel in bf16 rounds weights and outputs once each, as the plain computation does, so its
// error is of the same size; twice that is the rule FlashAttention's own tests use. Two more terms
// matter where one or two keys take nearly all the weight of a row. The plain computation rounds
// normalised weights, and 1 exactly; ours rounds exp2(score - shift), off by up to 2^-9 relative.
// And the argument of that exp2 is off by 2^-24 of the largest score, about 6 * size, on each side.
// The sum of these errors is at most `more` times the largest value (5, of normal numbers) where
// the scores are large, and averages out to less than that share of the output where they are not.
inline void expect_close(const Problem& p, const Difference& d, const std::string& what,
                         float score_size = 1.f) {
  const double size = std::max(score_size, p.q_scale);
  const double more = 0x1p-9 + 1e-6 * size;
  EXPECT_EQ(d.bad, 0) << what;
  EXPECT_LE(d.max_error, 2 * d.max_naive_error + more * (size >= 10 ? 5 : d.max_exact)) << what;
  EXPECT_LE(std::sqrt(d.sum_error2), 2 * std::sqrt(d.sum_naive2) + more * std::sqrt(d.sum_exact2))
      << what;
  // LSE is float32 all the way: sums of a few thousand terms stay well within 1e-4.
  EXPECT_LE(d.max_lse_error, 1e-4 * size) << what;
}

}  // namespace longhaul::test
