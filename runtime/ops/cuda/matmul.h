#pragma once
// One matrix product through cuBLASLt and the choice of its algorithm. Private to runtime/ops/cuda.

#include <cuda_runtime.h>

#include <compare>
#include <cstdint>
#include <functional>

#include "runtime/core/dtype.h"

namespace longhaul::ops::cuda {

// out [rows, features] = x [rows, depth] weight [features, depth]^T (+ bias) (+ out): what an
// algorithm is chosen for.
struct MatmulShape {
  int64_t rows = 0, features = 0, depth = 0;
  int64_t out_stride = 0;  // elements
  DType dtype = DType::bf16, out_dtype = DType::bf16;
  bool bias = false;  // of out_dtype
  bool accumulate = false;
  bool deterministic = false;
  int alignment = 16;  // bytes, of every pointer
  auto operator<=>(const MatmulShape&) const = default;
};

struct MatmulData {
  const void *x = nullptr, *weight = nullptr, *bias = nullptr;
  void* out = nullptr;
};

// On the calling thread's device. Throws Error(internal) with cuBLAS's status, the call and shape.
void matmul(const MatmulShape& shape, const MatmulData& data, cudaStream_t stream);

// What choosing an algorithm works on: x and out have matmul_class_rows(shape.rows) rows.
struct MatmulPreparation {
  MatmulData data;
  // Only for deterministic shapes: a second out; a function that gives an out its contents before
  // the product; one that tells whether the two outs hold the same bits.
  void* other_out = nullptr;
  std::function<void(void*)> refill;
  std::function<bool()> same;
};

// Times the library's proposals for the shape's class of row counts and keeps the fastest; of
// deterministic ones, those that give the bits of the fixed choice. Once for a class; synchronises.
void matmul_prepare(const MatmulShape& shape, const MatmulPreparation& preparation,
                    cudaStream_t stream);
bool matmul_is_prepared(const MatmulShape& shape);

// Row counts that share an algorithm share this representative.
int64_t matmul_class_rows(int64_t rows);

// *count += the 4-byte words in which a and b differ.
void count_different(const void* a, const void* b, int64_t bytes, uint32_t* count,
                     cudaStream_t stream);
// out [rows, features] f32 (rows out_stride apart) += bias [features] bf16.
void add_bias(float* out, const void* bias, int64_t rows, int64_t features, int64_t out_stride,
              cudaStream_t stream);

}  // namespace longhaul::ops::cuda
