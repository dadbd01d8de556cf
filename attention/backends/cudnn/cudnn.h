#pragma once
// Attention forward by cuDNN (9.5 or later, through the header-only cudnn_frontend): a second
// opinion beside our own kernels, and a fallback. The subset of
// attention/backends/cuda/attention.h: bf16 in and out, keys in ranges of rows (no pages),
// everything ready when the launch starts. Built only where cuDNN and cudnn_frontend.h are found.
//
//   Plan plan = make_plan(shape, items, options);
//   ... copy plan.table to the device at args.table; take plan.workspace_bytes of memory ...
//   forward(plan, args, stream);

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/backends/cuda/attention.h"

namespace longhaul::attention::cudnn {

using cuda::Args;
using cuda::Item;
using cuda::Shape;

bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not);

// What cuDNN builds into its code and its tables beside the shape; as in the Args that follow.
struct PlanOptions {
  double scale = 0;
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t out_stride = 0;
};

class Graph;  // compiled by cuDNN; shared by all plans of equal (rounded) sizes

struct Plan {
  Shape shape;
  PlanOptions options;
  std::vector<std::byte> table;  // goes to the device as it is
  int64_t workspace_bytes = 0;
  double flops = 0;  // as in cuda::Plan
  // Causal pieces and pieces without a mask are a call each; offsets are places in the table.
  struct Part {
    std::shared_ptr<const Graph> graph;
    int64_t q_lengths, kv_lengths;                                      // int32, one a segment
    int64_t q_offsets, k_offsets, v_offsets, out_offsets, lse_offsets;  // int64 elements, one more
  };
  std::vector<Part> parts;
  int64_t unseen = 0;  // ranges of rows (first, count) that see no key
  int64_t num_unseen = 0;
};

// Compiles what is not compiled yet, for the current device: tenths of a second the first time.
// Numbers of pieces and longest lengths are rounded up, so that similar batches share what is
// compiled. Throws Error(resource) with cuDNN's words when it cannot.
Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options);

// Enqueues the work on the stream of the current device. args.out_type must be bf16 and args.ready
// empty. Throws as cuda::forward does.
void forward(const Plan& plan, const Args& args, cudaStream_t stream);

}  // namespace longhaul::attention::cudnn
