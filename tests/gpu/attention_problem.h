#pragma once
// One attention problem for the GPU tests: its items, and its tensors on the device.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention/backends/cuda/attention_sm90.h"
#include "tests/gpu/attention_reference.cuh"

namespace longhaul::test {

namespace sm90 = attention::sm90;
using sm90::Item;
using sm90::Shape;

struct Problem {
  Shape shape;
  std::vector<Item> items;
  int64_t q_rows = 0;
  int64_t kv_rows = 0;
  float q_scale = 1.f;
  bool out_f32 = false;
  uint64_t seed = 0;
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
        out_(size(p.q_rows, p.shape.num_heads, p.shape.head_dim_v) * (p.out_f32 ? 4 : 2)),
        lse_(static_cast<size_t>(p.q_rows * p.shape.num_heads)),
        tiles_(sm90::plan_tiles(p.shape, p.items)),
        workspace_(sm90::kWorkspaceHeader + tiles_.size() * sizeof(sm90::Tile)) {
    fill(q_, p.shape.num_heads * p.shape.head_dim, true, p.seed * 3, p.q_scale);
    fill(k_, p.shape.num_kv_heads * p.shape.head_dim, false, p.seed * 3 + 1, 1.f);
    fill(v_, p.shape.num_kv_heads * p.shape.head_dim_v, false, p.seed * 3 + 2, 1.f);
    workspace_.fill_byte(0);
    LH_CUDA(cudaMemcpy(workspace_.get() + sm90::kWorkspaceHeader, tiles_.data(),
                       tiles_.size() * sizeof(sm90::Tile), cudaMemcpyHostToDevice));
    poison();
  }

  void poison() {
    out_.fill_byte(0xff);
    lse_.fill_byte(0xff);
  }

  // Every element of one row of k, all kv heads.
  void set_key(int64_t row, float value) {
    const int64_t stride = int64_t{p_.shape.num_kv_heads} * p_.shape.head_dim;
    const std::vector<__nv_bfloat16> key(static_cast<size_t>(stride), __float2bfloat16(value));
    LH_CUDA(
        cudaMemcpy(k_.get() + row * stride, key.data(), key.size() * 2, cudaMemcpyHostToDevice));
  }

  void run() {
    sm90::Args args;
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
    args.out_type = p_.out_f32 ? sm90::OutType::f32 : sm90::OutType::bf16;
    args.scale = 1.0 / std::sqrt(static_cast<double>(p_.shape.head_dim));
    for (const Item& item : p_.items) {
      args.max_kv_length = std::max(args.max_kv_length, item.kv_length);
    }
    args.workspace = workspace_.get();
    args.num_tiles = static_cast<int64_t>(tiles_.size());
    sm90::forward(p_.shape, args, nullptr);
  }

  Difference compare() const {
    std::vector<ReferenceRow> rows;
    int64_t most = 0;
    for (const Item& item : p_.items) {
      for (int64_t i = 0; i < item.q_length; ++i) {
        const int64_t seen = std::clamp(i + item.causal_offset + 1, int64_t{0}, item.kv_length);
        rows.push_back({item.q_row + i, item.kv_row, seen});
        most = std::max(most, seen);
      }
    }
    const Shape& s = p_.shape;
    const ReferenceProblem problem{
        q_.get(),
        k_.get(),
        v_.get(),
        out_.get(),
        lse_.get(),
        p_.out_f32,
        s.head_dim,
        s.head_dim_v,
        s.num_heads,
        s.num_kv_heads,
        int64_t{s.num_heads} * s.head_dim,
        int64_t{s.num_kv_heads} * s.head_dim,
        int64_t{s.num_kv_heads} * s.head_dim_v,
        int64_t{s.num_heads} * s.head_dim_v,
        static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))};
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
    for (const Item& item : p_.items) {
      const int64_t first = queries ? item.q_row : item.kv_row;
      const int64_t count = queries ? item.q_length : item.kv_length;
      if (count == 0) continue;
      fill_normal(buffer.get() + first * stride, static_cast<size_t>(count * stride),
                  seed * 1000003 + static_cast<uint64_t>(first), scale);
    }
  }

  Problem p_;
  DeviceBuffer<__nv_bfloat16> q_, k_, v_;
  DeviceBuffer<unsigned char> out_;
  DeviceBuffer<float> lse_;
  std::vector<sm90::Tile> tiles_;
  DeviceBuffer<unsigned char> workspace_;
};

}  // namespace longhaul::test
