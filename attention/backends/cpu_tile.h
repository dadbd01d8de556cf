#pragma once
// One thread's part of the cpu backend: a task's tiles, from the stacked queries to the result.

#include <cstdint>
#include <vector>

#include "attention/backends/cpu_plan.h"
#include "attention/backends/cpu_products.h"
#include "runtime/core/tensor.h"

namespace longhaul::attention::cpu {

// The query rows and key columns of a tile. Scores of a tile (256 KiB), keys, values and the
// running output fit a core's 1 MiB second-level cache together.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileColumns = 256;

// Running result of a block of queries: out is unnormalised.
struct Running {
  float* out = nullptr;  // [rows, dim_v]
  float* top = nullptr;  // [rows] running maximum of score * scale * log2(e)
  float* sum = nullptr;  // [rows]
};

class TileWorker {
 public:
  // T: type of the tiles' operands (float or bf16), which the inputs are converted to.
  TileWorker(DType tile_dtype, int64_t dim, int64_t dim_v);

  // Runs a task; its result goes to args.out and args.lse, or to `partial` where it is a part.
  void run(const AttentionArgs& args, const Plan& plan, const Task& task, const Running* partial,
           const std::function<void()>* poll);

 private:
  template <class In, class T>
  void run_typed(const AttentionArgs& args, const Plan& plan, const Task& task,
                 const Running& running, const std::function<void()>* poll);
  template <class In, class T>
  void stack_queries(const AttentionArgs& args, const Task& task, int64_t padded_rows);
  // k and v of keys [begin, begin + count) as tile operands; from where they lie if they can be.
  template <class In, class T>
  void load_keys(const AttentionArgs& args, const KeyList& keys, int64_t kv_head, int64_t begin,
                 int64_t count, int64_t columns, bool all_visible);
  template <class T>
  void hide_nonfinite(int64_t count);
  template <class T>
  void add_nonfinite(int64_t rows, int64_t group, int64_t columns, const Running& running);
  void grow(Tensor& tensor, int64_t elements, DType dtype);

  DType tile_dtype_;
  int64_t dim_, dim_v_;
  TileProducts products_;
  Tensor queries_, scores_, keys_, values_, out_, top_, sum_;
  std::vector<int64_t> visible_, in_tile_;
  const void* k_ = nullptr;
  const void* v_ = nullptr;
  int64_t k_stride_ = 0, v_stride_ = 0;

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
