#pragma once
// Context-parallel attention on a GPU. A rank's new K and V go straight from the fused RoPE kernel
// into its cache and, with several ranks, into a buffer that holds every sequence's keys in natural
// order; the exchange fills in the other ranks' rows at their own places, so nothing is packed,
// reordered or merged, and both halves of all sequences are one launch.
//
//   begin_step(layout, ownership);
//   every layer:  the kernel that forms k and v writes them to targets(layer)
//                 exchange(layer) [work that needs no keys] await(layer) attend(layer, ...)

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention/backends/cuda/attention.h"
#include "attention/cuda/device_kv_cache.h"
#include "comm/communicator.h"
#include "comm/cuda/gather.h"
#include "runtime/core/cuda/tables.h"
#include "runtime/layout/batch_layout.h"
#include "runtime/layout/exchange_plan.h"
#include "runtime/layout/kv_ownership.h"
#include "runtime/ops/cuda/qkv.h"

namespace longhaul::attention::cuda {

class DeviceAttention {
 public:
  struct Options {
    bool deterministic = false;
    // Where the gather can tell a kernel what has come, attention starts on the rank's own keys and
    // waits for each other rank's when it gets there; else the stream waits for all before it.
    bool wait_in_kernel = false;
  };
  // `gather` is null where comm has one rank. Borrows all; work is enqueued on `stream`.
  DeviceAttention(comm::Communicator& comm, comm::cuda::Gather* gather, DeviceKvCache& cache,
                  cudaStream_t stream, Options options);

  // Collective. The work of the step before must be done on the device. `ownership` contains the
  // step. Makes room in the cache; uploads the plans of all layers.
  void begin_step(const Shape& shape, const layout::BatchLayout& layout,
                  const layout::KvOwnership& ownership);

  // Where the K and V of local row r go: base + row[r] packed rows (negative: nowhere there). Valid
  // for the layer that is exchanged next.
  std::span<const ops::cuda::KvDestination> targets(int layer);
  bool exchanges() const { return gather_ != nullptr; }
  // Where what exchange() sends goes out, for timing.
  cudaStream_t sending_stream() const {
    const cudaStream_t own = gather_ != nullptr ? gather_->sending_stream() : nullptr;
    return own != nullptr ? own : stream_;
  }
  void exchange(int layer);
  void await(int layer);  // what comes after needs the exchange, unless the kernel waits by itself
  // q [local rows, num_heads, head_dim]; out [local rows, num_heads, head_dim_v] in q's dtype; lse
  // [local rows, num_heads] f32.
  void attend(int layer, ConstTensorView q, double scale, TensorView out, TensorView lse);

  double flops_per_layer() const { return plan_.flops; }
  std::string kernel() const { return std::string(kernel_name(plan_.kernel)); }

 private:
  void enqueue_kernel(int layer, ConstTensorView q, double scale, TensorView out, TensorView lse);
  void plan_rows(const layout::BatchLayout& layout, const layout::KvOwnership& ownership);
  void plan_gather(const layout::BatchLayout& layout, const layout::KvOwnership& ownership);
  void plan_items(const layout::BatchLayout& layout);
  int64_t row_bytes() const;

  comm::Communicator& comm_;
  comm::cuda::Gather* gather_;
  DeviceKvCache& cache_;
  cudaStream_t stream_;
  Options options_;

  // Of the step.
  Shape shape_;
  Plan plan_;
  longhaul::cuda::StepTables tables_;
  longhaul::cuda::Buffer workspace_;
  size_t plan_table_ = 0;
  struct SlabRows {
    int slab;
    size_t rows;  // handle of int64 [local rows]
  };
  std::vector<SlabRows> cache_rows_;
  size_t gather_rows_ = 0;         // handle of int64 [local rows]
  size_t row_sources_ = 0;         // handle of uint32
  std::vector<int64_t> base_row_;  // [num_sequences] of token 0 in the keys' buffer
  int64_t num_key_rows_ = 0;
  struct PrefixCopy {
    int slab;
    size_t runs;  // handle of int64 [num_runs, 3]
    int64_t num_runs;
  };
  std::vector<PrefixCopy> prefix_copies_;
  bool store_to_peers_ = false;
  bool waiting_in_kernel_ = false;  // in the layer exchanged last
  std::vector<ops::cuda::KvDestination> targets_;
};

}  // namespace longhaul::attention::cuda
