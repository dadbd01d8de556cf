#pragma once
// The experts of one layer on a GPU: routing, permutation, both grouped matrix products and the
// weighted sum, with no copy to the host and no wait for the device in between. The rules are those
// of moe/router.h and moe/experts.h.

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/core/tensor.h"

namespace longhaul::moe::cuda {

struct ExpertShape {
  int num_experts = 0;  // at most 1024
  int top_k = 0;        // at most 32
  int64_t hidden = 0;
  int64_t intermediate = 0;
  bool normalize = false;     // divide the k weights by their sum (norm_topk_prob)
  DType dtype = DType::bf16;  // of activations and weights: bf16 or f32
};

// Whether the shape can run; a row of hidden or intermediate elements has to be a multiple of 16
// bytes. `why_not` may be null.
bool supported(const ExpertShape& shape, std::string* why_not);

class Experts {
 public:
  // gate_up [num_experts, 2 * intermediate, hidden] (gate rows first), down [num_experts, hidden,
  // intermediate], both in shape.dtype in device memory, 16-byte aligned, which must outlive this
  // object. Chooses the kernel for the calling thread's device: wgmma on compute capability 9.0
  // with bf16, mma.sync or plain arithmetic elsewhere. LONGHAUL_MOE_KERNEL=portable or sm90 in the
  // environment forces one. Throws Error(usage) for what the device cannot run.
  Experts(const ExpertShape& shape, ConstTensorView gate_up, ConstTensorView down);

  const ExpertShape& shape() const { return shape_; }
  const char* kernel() const { return sm90_ ? "sm90" : "portable"; }

  // Bytes of device memory that apply() needs for so many rows.
  int64_t scratch_bytes(int64_t rows) const;

  // router_logits [rows, num_experts] f32 -> ids [rows, top_k] i32, weights [rows, top_k] f32: the
  // ids of moe::route() exactly, its weights up to float32 rounding.
  void route(ConstTensorView router_logits, TensorView ids, TensorView weights,
             cudaStream_t stream) const;

  // out[r] = sum over k of weights[r, k] * expert[ids[r, k]](x[r]), or out[r] += with `residual`;
  // summed in float32 in ascending order of the expert number and rounded once. The same bits
  // whatever other rows are in the call. x, out [rows, hidden] in shape.dtype, not overlapping; ids
  // each in [0, num_experts) (another one stops the kernel and fails the stream); scratch
  // 256-byte aligned, scratch_bytes(rows) long, free again when the stream has come past. `mark`,
  // where given, is called once each of "permute", "gate_up", "down" and "combine" is enqueued.
  using Mark = std::function<void(const char* part)>;
  void apply(ConstTensorView x, ConstTensorView ids, ConstTensorView weights, TensorView out,
             bool residual, void* scratch, cudaStream_t stream, const Mark& mark = {}) const;

 private:
  int tile_rows() const;

  ExpertShape shape_;
  const void* gate_up_ = nullptr;
  const void* down_ = nullptr;
  int multiprocessors_ = 0;
  bool sm90_ = false;
};

}  // namespace longhaul::moe::cuda
