#pragma once
// Between the QKV product and attention: split the heads, norm, rotate, and put keys and values
// where attention will look for them, on this GPU and on peers, in one pass over the data.

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "runtime/core/tensor.h"

namespace longhaul::ops::cuda {

// A buffer of packed KV rows: keys of all heads, then values of all heads, [Hk * D | Hk * Dv],
// every QkvArgs::kv_row_stride elements.
struct KvDestination {
  void* base = nullptr;          // this GPU's memory or a peer's (16-byte stores only, no reads)
  const int64_t* row = nullptr;  // [rows] device: the place of row r there; negative: not there
};

struct QkvArgs {
  // The product's result, or a part of it: [rows, columns], f32 or bf16. A part with 0 heads is not
  // there, so that keys and values can be done first and queries later.
  ConstTensorView qkv;
  int64_t num_heads = 0, num_kv_heads = 0;
  int64_t head_dim = 0, head_dim_v = 0;              // head_dim_v 0: as head_dim
  int64_t q_column = 0, k_column = 0, v_column = 0;  // where each part begins
  // RMSNorm of each head's vector, [head_dim] of qkv's type; undefined (data null): none.
  ConstTensorView q_norm, k_norm;
  double norm_eps = 0;
  // "Rotate half" by these angles, [rows, head_dim / 2] f32; undefined: none.
  ConstTensorView cos, sin;

  TensorView q;  // [rows, num_heads, head_dim]
  // Both or none of these where plain copies are not wanted: [rows, num_kv_heads, D or Dv].
  TensorView k_out, v_out;
  static constexpr int kMaxDestinations = 9;
  std::array<KvDestination, kMaxDestinations> destinations{};
  int num_destinations = 0;
  int64_t kv_row_stride = 0;  // elements; 0: num_kv_heads * (head_dim + head_dim_v)
};

// q, k: as the CPU path, norm rounded to the type, then rotated in float32 and rounded again. v is
// copied. Outputs must not overlap the input. Throws Error(internal) for shapes that do not fit.
void finish_qkv(const QkvArgs& args, cudaStream_t stream);

// Copies runs of packed rows between two buffers, for cached prefixes.
struct KvCopy {
  const void* from = nullptr;
  void* to = nullptr;             // must not overlap
  int64_t row_bytes = 0;          // of a packed row, equal on both sides
  const int64_t* runs = nullptr;  // [num_runs, 3] device: source row, destination row, row count
  int64_t num_runs = 0;
};
void copy_kv_rows(const KvCopy& copy, cudaStream_t stream);

}  // namespace longhaul::ops::cuda
