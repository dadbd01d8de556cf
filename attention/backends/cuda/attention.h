#pragma once
// Attention forward on a GPU, whatever kernel computes it: softmax(scale * q k^T) v.
//
// One launch computes any number of items. An item is a run of queries with its own range of keys
// and its own causal offset, so both zigzag halves of every sequence of a ragged batch go together.
// The order of work is planned on the host once a batch layout and used by every layer:
//
//   Plan plan = make_plan(kernel, shape, items, options);
//   ... copy plan.table to the device at args.table; take plan.workspace_bytes of zeroed memory ...
//   forward(plan, args, stream);
//
// Kernels: sm90 (bf16, wgmma and TMA, docs/performance_gpu.md) and portable (bf16 by mma.sync,
// float32 by multiply-adds; compute capability 8.0 and later, and on Hopper where asked for).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/cuda/device.h"
#include "runtime/core/dtype.h"

namespace longhaul::attention::cuda {

enum class Kernel : uint8_t { sm90, portable };
std::string_view kernel_name(Kernel kernel);

struct Shape {
  DType dtype = DType::bf16;  // of q, k and v: bf16 or f32
  int head_dim = 0;           // of q and k
  int head_dim_v = 0;         // of v and out
  int num_heads = 0;
  int num_kv_heads = 0;  // divides num_heads; head h reads kv head h / (num_heads / num_kv_heads)
};

// Whether the kernel computes this shape on this device; else why_not (may be null) says what is
// missing.
bool supported(Kernel kernel, const longhaul::cuda::Device& device, const Shape& shape,
               std::string* why_not);
// sm90 where it is supported, else portable; LONGHAUL_ATTENTION_KERNEL=sm90|portable forces one.
// Throws Error(usage) where none can, with the reasons.
Kernel choose_kernel(const longhaul::cuda::Device& device, const Shape& shape);

// Query i (0 <= i < q_length, row q_row + i of q) sees key j (0 <= j < kv_length) iff
// j <= i + causal_offset. Causal attention whose last query sees the last key (bottom-right) has
// causal_offset = kv_length - q_length; kNoMask shows every key to every query. Key j is row
// kv_row + j of k and v; or, where page_begin >= 0, row
// page_table[page_begin + j / page_size] * page_size + j % page_size (kv_row is then not used).
// kv ranges of items may overlap, q ranges must not.
struct Item {
  int64_t q_row = 0;
  int64_t q_length = 0;  // may be 0
  int64_t kv_row = 0;
  int64_t kv_length = 0;  // may be 0: out 0, lse -inf
  int64_t causal_offset = 0;
  int64_t page_begin = -1;
};
inline constexpr int64_t kNoMask = int64_t{1} << 30;

struct PlanOptions {
  int multiprocessors = 132;
  int page_size = 0;  // tokens, a power of two >= 16; 0: no item has pages
  // The same bits for a query whatever the other items are and wherever its own item begins and
  // ends: they depend on the query, its keys and the rows these lie in, counted from key 0. No key
  // range is split by what else there is to do. (Repetition gives the same bits in either form.)
  bool deterministic = false;
};

struct Plan {
  Kernel kernel = Kernel::sm90;
  Shape shape;
  PlanOptions options;
  std::vector<std::byte> table;  // goes to the device as it is
  int64_t workspace_bytes = 0;   // zeroed once; launches leave the counters zero again, so
                                 // plans of one kernel may share the largest workspace of them
  int64_t num_tiles = 0;
  int64_t max_kv_length = 0;
  int num_splits = 1;  // most parts that any tile's keys are cut into
  double flops = 0;    // 2 * (head_dim + head_dim_v) * num_heads * unmasked area
  // What the kernels need to read the table; callers need not look.
  int heads_per_tile = 1;    // query heads of one kv head that share a tile
  int64_t num_merges = 0;    // tiles whose parts a second kernel joins
  int64_t num_partials = 0;  // parts of all tiles whose keys are cut
};
// Every query of every item once, longest work first; where there are too few tiles to fill the
// device, the keys of long ones are cut and the parts merged in float32. Pure: needs no device.
// Throws Error(internal) when rows or lengths do not fit the kernels' 31-bit coordinates.
Plan make_plan(Kernel kernel, const Shape& shape, std::span<const Item> items,
               const PlanOptions& options);

// Rows of k and v become valid while the kernel runs. Word i of row_sources covers the
// kReadyRows rows from kReadyRows * i (of k and v, pages or not): a bit for each source with rows
// among them. Source s is ready once flags[s] - value, as a signed difference, is >= 0; flags are
// written by copy engines or peers, after the rows. A kernel on this device may find no room beside
// the attention kernel, so rows must not wait for one that was not enqueued before it, nor for a
// copy within this device, which is a kernel too (or plan with fewer multiprocessors). The kernel
// waits without end: who gives up on a source sets its flag, and throws the result away.
struct ReadyFlags {
  const uint32_t* flags = nullptr;        // [<= 32], null: everything is ready
  const uint32_t* row_sources = nullptr;  // [ceil(kv_rows / kReadyRows)]
  uint32_t value = 0;
};
inline constexpr int64_t kReadyRows = 64;

// bf16, f32: out is written. accumulate (out in f32): (out, lse) hold a partial result, or out 0
// and lse -inf, over other keys; they are replaced by the merged one.
enum class OutType : uint8_t { bf16, f32, f32_accumulate };

// All pointers are device memory. Strides are in elements from one token to the next; heads are
// packed inside a token. Row strides and base addresses are multiples of 16 bytes.
struct Args {
  const void* q = nullptr;  // [q_rows, num_heads, head_dim]
  const void* k = nullptr;  // [kv_rows, num_kv_heads, head_dim]
  const void* v = nullptr;  // [kv_rows, num_kv_heads, head_dim_v]
  void* out = nullptr;   // [q_rows, num_heads, head_dim_v]; rows outside all items are not written
  float* lse = nullptr;  // [q_rows, num_heads], natural logarithm; -inf where no key is seen
  int64_t q_rows = 0;
  int64_t kv_rows = 0;
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t out_stride = 0;
  OutType out_type = OutType::bf16;
  double scale = 0;                     // > 0
  const void* table = nullptr;          // plan.table
  void* workspace = nullptr;            // plan.workspace_bytes; one launch at a time uses it
  const int32_t* page_table = nullptr;  // pages of all items
  ReadyFlags ready;
};

// Enqueues the work on the stream of the current device. Same inputs, same bits: no result depends
// on which multiprocessor computed it. Throws Error(internal) for arguments that cannot be,
// Error(resource) when the driver refuses the launch.
void forward(const Plan& plan, const Args& args, cudaStream_t stream);

}  // namespace longhaul::attention::cuda
