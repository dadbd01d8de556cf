#pragma once
// The two matrix products of an attention tile, by oneDNN, for one thread.
//
// oneDNN is the fastest matrix library that Debian and Ubuntu carry for these shapes: 93 to 100 %
// of the machine's peak at 256 x 256 x 128. A matmul primitive is made once a shape and kept. Not
// thread-safe: every thread has its own. oneDNN's OpenMP is told to use one thread in each thread
// that calls it: the cores belong to our pool.

#include <cstdint>
#include <memory>

#include "runtime/core/dtype.h"

namespace longhaul::attention::cpu {

class TileProducts {
 public:
  // dtype of the operands: f32 or bf16; results are float32.
  explicit TileProducts(DType dtype);
  ~TileProducts();
  TileProducts(TileProducts&&) noexcept;

  // scores [rows, columns] = q [rows, dim] k^T, with k [columns, dim], its rows k_stride apart.
  void scores(int64_t rows, int64_t columns, int64_t dim, const void* q, const void* k,
              int64_t k_stride, float* scores);
  // out [rows, dim_v] += p v, with p [rows, columns], its rows p_stride apart, and v
  // [columns, dim_v], its rows v_stride apart.
  void accumulate(int64_t rows, int64_t columns, int64_t dim_v, const void* p, int64_t p_stride,
                  const void* v, int64_t v_stride, float* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether matrix products of bf16 run on the CPU's own bf16 instructions.
bool has_bf16_products();

}  // namespace longhaul::attention::cpu
