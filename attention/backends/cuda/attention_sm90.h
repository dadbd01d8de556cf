#pragma once
// Attention forward on Hopper (sm_90a), bf16 with float32 accumulation: wgmma fed by TMA.
// attention.h has the contract, docs/performance_gpu.md the design.

#include <span>
#include <string>

#include "attention/backends/cuda/attention.h"
#include "attention/backends/cuda/attention_sm90_tile.h"

namespace longhaul::attention::cuda::sm90 {

// Head dims 64, 128, 256 and 192/128.
bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not);
bool shape_supported(const Shape& shape, std::string* why_not);

int rows_per_tile(const Shape& shape);
int keys_per_block(const Shape& shape);
// The table is num_tiles Tiles, then num_merges Merges.
Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options);

// Where partial results lie in the workspace, in bytes: of each row head_dim_v outputs, then the
// exponent's shift and the sum of weights.
struct PartialLayout {
  int64_t out = 0;
  int64_t state = 0;
  int64_t bytes = 0;  // of the workspace
};
PartialLayout partial_layout(const Plan& plan);

void forward(const Plan& plan, const Args& args, cudaStream_t stream);

}  // namespace longhaul::attention::cuda::sm90
