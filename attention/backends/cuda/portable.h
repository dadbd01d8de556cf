#pragma once
// The attention kernels that need no Hopper instruction, behind the contract of attention.h: bf16
// by mma.sync and cp.async, float32 by plain multiply-adds (no TF32), for compute capability 8.0
// and later.

#include <span>
#include <string>

#include "attention/backends/cuda/attention.h"

namespace longhaul::attention::cuda::portable {

bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not);
Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options);
void forward(const Plan& plan, const Args& args, cudaStream_t stream);

}  // namespace longhaul::attention::cuda::portable
