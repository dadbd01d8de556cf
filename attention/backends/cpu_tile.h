#pragma once
// One thread's part of the cpu backend: a task's tiles, from the stacked queries to the result.

#include <cstdint>
#include <functional>
#include <vector>

#include "attention/backends/cpu_plan.h"
#include "attention/backends/cpu_products.h"
#include "runtime/core/tensor.h"

namespace longhaul::attention::cpu {

// Running result of a block of queries: out is unnormalised.
struct Running {
  float* out = nullptr;  // [rows, dim_v]
  float* top = nullptr;  // [rows] running maximum of score * scale * log2(e)
  float* sum = nullptr;  // [rows]
};

// Packed keys and values of a round of KV heads: [heads, plan.packed.total(), keys then values].
struct PackedKeys {
  std::byte* data = nullptr;
  int64_t first_head = 0;
  int64_t key_bytes = 0, value_bytes = 0;  // of a tile
  std::byte* tile(const PackedTiles& tiles, size_t sequence, int64_t kv_head, int64_t index) const {
    return data + ((kv_head - first_head) * tiles.total() + tiles.first[sequence] + index) *
                      (key_bytes + value_bytes);
  }
};

// What the tasks of a call share.
struct Call {
  const AttentionArgs& args;
  const Plan& plan;
  PackedKeys packed;
};

class TileWorker {
 public:
  // tile_dtype: of the tiles' operands (f32 or bf16), which the inputs are converted to.
  TileWorker(DType tile_dtype, int64_t dim, int64_t dim_v);

  // Packs a whole tile of keys and values into call.packed.
  void pack(const Call& call, size_t sequence, int64_t kv_head, int64_t tile);
  // Runs a task; its result goes to args.out and args.lse, or to `partial` where it is a part.
  void run(const Call& call, const Task& task, const Running* partial,
           const std::function<void()>* poll);

  int64_t packed_key_bytes() { return products_.packed_key_bytes(); }
  int64_t packed_value_bytes() { return products_.packed_value_bytes(); }

 private:
  template <class In, class T>
  void run_typed(const Call& call, const Task& task, const Running& running,
                 const std::function<void()>* poll);
  template <class In, class T>
  void stack_queries(const AttentionArgs& args, const Task& task, int64_t padded_rows);
  // Keys and values [begin, begin + count) of a KV head, filled up to `columns` with zeros.
  template <class In, class T>
  void gather(const KeyList& keys, int64_t kv_head, int64_t begin, int64_t count, int64_t columns);
  template <class T>
  void hide_nonfinite(int64_t count);
  template <class T>
  void add_nonfinite(const T* p, int64_t rows, int64_t group, int64_t columns,
                     const Running& running);
  static void grow(Tensor& tensor, int64_t elements, DType dtype);

  DType tile_dtype_;
  int64_t dim_, dim_v_;
  TileProducts products_;
  Tensor queries_, scores_, weights_, keys_, values_, out_, top_, sum_;
  std::vector<int64_t> visible_, in_tile_;

  // An infinite or NaN value among those of a tile that not every query sees: p = 0 would not hide
  // it from the others (0 * NaN is NaN), so it is taken out of the product and added where seen.
  struct Nonfinite {
    int64_t key, column;
    float value;
  };
  std::vector<Nonfinite> nonfinite_;
};

// out = running.out / running.sum and lse = ln(sum) + top ln 2 for the rows of a task's queries;
// rows without keys get 0 and -inf.
void store_result(const AttentionArgs& args, const Task& task, const Running& running);

}  // namespace longhaul::attention::cpu
