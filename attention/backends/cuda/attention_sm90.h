#pragma once
// Attention forward on Hopper (sm_90a): softmax(scale * q k^T) v in bf16 with float32 accumulation.
//
// One launch computes any number of items. An item is a run of queries with its own range of keys
// and its own causal offset, so both zigzag halves of every sequence of a ragged batch go together.
// The order of work is a table made on the host once per batch layout and used by every layer.
//
//   std::vector<Tile> tiles = plan_tiles(shape, items);
//   ... copy tiles to the device at workspace + kWorkspaceHeader, zero the header once ...
//   forward(shape, args, stream);
//
// The kernel's design is described in docs/performance_gpu.md.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attention/backends/cuda/attention_sm90_tile.h"

namespace longhaul::attention::sm90 {

struct Shape {
  int head_dim = 0;    // of q and k: 64, 128, 192 or 256
  int head_dim_v = 0;  // of v and out: head_dim, or 128 for 192
  int num_heads = 0;
  int num_kv_heads =
      0;  // divides num_heads; query head h reads kv head h / (num_heads/num_kv_heads)
};

// Query i (0 <= i < q_length, row q_row + i of q) sees key j (0 <= j < kv_length, row kv_row + j of
// k and v) iff j <= i + causal_offset. Causal attention whose last query sees the last key
// (bottom-right) has causal_offset = kv_length - q_length; kNoMask shows every key to every query.
// kv ranges of items may overlap, q ranges must not.
struct Item {
  int64_t q_row = 0;
  int64_t q_length = 0;  // may be 0
  int64_t kv_row = 0;
  int64_t kv_length = 0;  // may be 0: out 0, lse -inf
  int64_t causal_offset = 0;
};
inline constexpr int64_t kNoMask = int64_t{1} << 30;

// Whether this shape has a kernel; else why_not says what is missing.
bool supported(const Shape& shape, std::string* why_not);

int queries_per_tile(const Shape& shape);

// Every query of every item once, longest work first. Pure: needs no device. Throws Error(internal)
// when rows or lengths do not fit the kernel's 31-bit coordinates.
std::vector<Tile> plan_tiles(const Shape& shape, std::span<const Item> items);

enum class OutType : uint8_t { bf16, f32 };

// All pointers are device memory. Strides are in elements from one token to the next; heads are
// packed inside a token. Row strides and base addresses are multiples of 16 bytes.
struct Args {
  const void* q = nullptr;  // [q_rows, num_heads, head_dim] bf16
  const void* k = nullptr;  // [kv_rows, num_kv_heads, head_dim] bf16
  const void* v = nullptr;  // [kv_rows, num_kv_heads, head_dim_v] bf16
  void* out = nullptr;   // [q_rows, num_heads, head_dim_v]; rows outside all items are not written
  float* lse = nullptr;  // [q_rows, num_heads], natural logarithm; -inf where no key is seen
  int64_t q_rows = 0;
  int64_t kv_rows = 0;
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t out_stride = 0;
  OutType out_type = OutType::bf16;
  double scale = 0;           // > 0
  int64_t max_kv_length = 0;  // longest kv range of the items: how heads are grouped to stay in L2
  void* workspace =
      nullptr;  // kWorkspaceHeader bytes, then the tiles; one launch at a time uses it
  int64_t num_tiles = 0;
  int num_sms = 0;  // multiprocessors to occupy; 0: all of the current device
};

// Enqueues one kernel on the stream (a cudaStream_t) of the current device. Same inputs, same bits:
// no result depends on which multiprocessor computed it. Throws Error(internal) for arguments the
// kernel cannot take, Error(resource) when the driver refuses the launch.
void forward(const Shape& shape, const Args& args, void* stream);

}  // namespace longhaul::attention::sm90
