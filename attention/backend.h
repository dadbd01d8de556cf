#pragma once
// An attention backend computes on local tensors and never communicates.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/device_kind.h"
#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::attention {

// What a caller will ask for; head counts are NOT here: they come from the tensors at the call.
struct AttentionDesc {
  DType dtype = DType::f32;  // of q, k and v
  int64_t head_dim = 0;      // of q and k
  int64_t head_dim_v = 0;    // of v and the output
  bool causal = true;
  bool deterministic = false;
};

struct Support {
  bool ok = false;
  std::string why_not;  // a sentence when !ok
};

// Queries of one half (prev or next) of one sequence: consecutive rows of q at consecutive absolute
// positions. With a causal mask query at position t sees keys at positions <= t (bottom-right:
// kv_len == q_position + q_length); without one it sees positions < kv_len. An item never sees
// positions >= kv_len.
struct WorkItem {
  int sequence = 0;        // index into AttentionArgs::kv
  int64_t q_row = 0;       // first row in q, out and lse
  int64_t q_length = 0;    // may be 0
  int64_t q_position = 0;  // absolute position of the first query (a causal one below 0 sees none)
  int64_t kv_length = 0;   // absolute end of the keys it may see
};

// Keys and values of consecutive absolute positions of one sequence: token i at
// k + i * k_stride elements is [num_kv_heads, head_dim] packed; v likewise with head_dim_v.
struct KvSegment {
  int64_t position = 0;
  int64_t length = 0;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t k_stride = 0;  // elements from one token to the next
  int64_t v_stride = 0;
};

struct AttentionArgs {
  ConstTensorView q;                           // [num_tokens, num_heads, head_dim]
  int64_t num_kv_heads = 0;                    // of every segment; divides num_heads
  std::span<const WorkItem> items;             // rows of different items never overlap
  std::span<const std::vector<KvSegment>> kv;  // [num_sequences]; any order, any subset of the keys
  bool causal = true;
  double scale = 0;  // softmax(scale * q k^T) v
  TensorView out;    // [num_tokens, num_heads, head_dim_v], accumulator type (f32; f64 for f64)
  TensorView lse;    // [num_tokens, num_heads], accumulator type, natural log of the sum of exp
  // Queries that see no key of the given segments get out 0 and lse -inf; rows of q that no item
  // covers keep what out and lse held.
  // Called now and then between tasks by the thread that called run(), where given: it lets a
  // message in flight make progress. Must be cheap.
  const std::function<void()>* poll = nullptr;
};

// Checks shapes, dtypes and ranges of args; a violation is a defect of the caller (exit 70).
void check_arguments(const AttentionArgs& args);

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  // Whose memory the model of a run with this backend lives in.
  virtual DeviceKind device() const { return DeviceKind::cpu; }
  virtual Support supports(const AttentionDesc& desc) const = 0;
  // Picks kernels and builds what depends only on desc and threads; called once before run, again
  // whenever desc changes.
  virtual void prepare(const AttentionDesc& desc, int num_threads) = 0;
  virtual void run(const AttentionArgs& args, ThreadPool& pool) = 0;
};

}  // namespace longhaul::attention
