#pragma once
// The two matrix products of an attention tile, by oneDNN, for one thread.
//
// oneDNN is the fastest matrix library that Debian and Ubuntu carry for these shapes: 93 to 100 %
// of the machine's peak at 256 x 256 x 128 with packed operands. A matmul primitive is made once a
// shape and kept. Not thread-safe: every thread has its own.
// All operands are dense: oneDNN 2.6 leaves its fast kernels where rows have gaps.

#include <cstdint>
#include <memory>

#include "runtime/core/dtype.h"

namespace longhaul::attention::cpu {

// The query rows and key columns of a whole tile. Scores of a tile (256 KiB), P, keys, values,
// queries and the running output fit a core's 1 MiB second-level cache together.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileColumns = 256;

// Keys [columns, dim] or values [columns, dim_v] of a tile: row after row, or, for a whole tile,
// in the order that pack_keys() and pack_values() give them.
struct Operand {
  const void* data = nullptr;
  bool packed = false;
};

class TileProducts {
 public:
  // dtype of the operands: f32 or bf16; results are float32.
  TileProducts(DType dtype, int64_t dim, int64_t dim_v);
  ~TileProducts();
  TileProducts(TileProducts&&) noexcept;

  // scores [rows, columns] = q [rows, dim] k^T
  void scores(int64_t rows, int64_t columns, const void* q, const Operand& k, float* scores);
  // out [rows, dim_v] += p [rows, columns] v
  void accumulate(int64_t rows, int64_t columns, const void* p, const Operand& v, float* out);

  // Bytes of a packed tile of kTileColumns keys or values; multiples of 64.
  int64_t packed_key_bytes();
  int64_t packed_value_bytes();
  void pack_keys(const void* k, void* packed);
  void pack_values(const void* v, void* packed);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether matrix products of bf16 run on the CPU's own bf16 instructions.
bool has_bf16_products();

}  // namespace longhaul::attention::cpu
