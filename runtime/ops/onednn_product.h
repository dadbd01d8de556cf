#pragma once
// Matrix products with packed weights by oneDNN (2.6 and 3.x), one thread each. Private to
// runtime/ops.

#include <compare>
#include <cstdint>
#include <memory>

#include "runtime/core/dtype.h"

namespace longhaul::ops::onednn {

// dst [rows, out] = src [rows, in] * W^T (+ bias [out] in f32), all dense. `type` (f32 or bf16) is
// that of src and the packed weights, `out_type` that of dst; sums are float32.
struct ProductShape {
  int64_t rows = 0, in = 0, out = 0;
  DType type = DType::f32, out_type = DType::f32;
  bool bias = false;
  auto operator<=>(const ProductShape&) const = default;
};

struct Product;  // compiled; immutable, any number of threads may run it at once

// Compiles a product, or finds it in the process-wide table (locked).
std::shared_ptr<const Product> find_product(const ProductShape& shape);

// Packed weights: one format for all `rows`. `weight` [out, in] is dense, of `type`.
int64_t packed_bytes(int64_t in, int64_t out, DType type);
void pack(const void* weight, int64_t in, int64_t out, DType type, void* packed);

// bias may be null where the shape has none.
void run(const Product& product, const void* src, const void* packed, const float* bias, void* dst);

// The library's name of the kernel, e.g. "brg:avx512_core_bf16".
const char* kernel_name(const Product& product);

// The instructions oneDNN may use here include a bf16 dot product (AVX-512 BF16 or AMX); respects
// ONEDNN_MAX_CPU_ISA.
bool has_bf16_dot();

}  // namespace longhaul::ops::onednn
