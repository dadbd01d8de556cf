#pragma once
// One compiled cuDNN attention, and the device's cuDNN handle. Only graph.cpp sees cudnn_frontend.

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

namespace longhaul::attention::cudnn {

// Everything a compiled graph depends on.
struct GraphKey {
  int device = 0;
  bool causal = false;
  int64_t segments = 0, max_q = 0, max_kv = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, head_dim_v = 0;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;
  float scale = 0;
  auto operator<=>(const GraphKey&) const = default;
};

// Device memory of one call, in the order of Plan::Part.
struct GraphData {
  const void *q, *k, *v;
  void* out;
  float* lse;
  const void *q_lengths, *kv_lengths;
  const void *q_offsets, *k_offsets, *v_offsets, *out_offsets, *lse_offsets;
};

class Graph {
 public:
  explicit Graph(const GraphKey& key);  // throws Error(resource) with cuDNN's words
  ~Graph();
  int64_t workspace_bytes() const { return workspace_bytes_; }
  void run(const GraphData& data, void* workspace, cudaStream_t stream) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  GraphKey key_;
  int64_t workspace_bytes_ = 0;
};

// The version of the cuDNN library that runs, as 91400 for 9.14.0.
int64_t cudnn_version();

}  // namespace longhaul::attention::cudnn
