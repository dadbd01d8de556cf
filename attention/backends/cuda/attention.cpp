#include "attention/backends/cuda/attention.h"

#include <cstdlib>

#include "attention/backends/cuda/attention_sm90.h"
#include "attention/backends/cuda/portable.h"
#include "runtime/core/check.h"

namespace longhaul::attention::cuda {

std::string_view kernel_name(Kernel kernel) {
  return kernel == Kernel::sm90 ? "sm90" : "portable";
}

bool supported(Kernel kernel, const longhaul::cuda::Device& device, const Shape& shape,
               std::string* why_not) {
  return kernel == Kernel::sm90 ? sm90::supported(device, shape, why_not)
                                : portable::supported(device, shape, why_not);
}

Kernel choose_kernel(const longhaul::cuda::Device& device, const Shape& shape) {
  const char* forced = std::getenv("LONGHAUL_ATTENTION_KERNEL");
  const std::string_view name = forced == nullptr ? "" : forced;
  if (!name.empty() && name != "sm90" && name != "portable") {
    fail(ExitCode::usage, "LONGHAUL_ATTENTION_KERNEL={}: give sm90 or portable, or leave it unset",
         name);
  }
  std::string reasons;
  for (const Kernel kernel : {Kernel::sm90, Kernel::portable}) {
    if (!name.empty() && name != kernel_name(kernel)) continue;
    std::string why_not;
    if (supported(kernel, device, shape, &why_not)) return kernel;
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", kernel_name(kernel), why_not);
  }
  fail(
      ExitCode::usage,
      "no GPU kernel computes attention of head dims {}/{}, {}/{} heads in {} on GPU {} ({}){}: {}",
      shape.head_dim, shape.head_dim_v, shape.num_heads, shape.num_kv_heads,
      dtype_name(shape.dtype), device.ordinal, device.name,
      name.empty() ? "" : " with LONGHAUL_ATTENTION_KERNEL set", reasons);
}

Plan make_plan(Kernel kernel, const Shape& shape, std::span<const Item> items,
               const PlanOptions& options) {
  return kernel == Kernel::sm90 ? sm90::make_plan(shape, items, options)
                                : portable::make_plan(shape, items, options);
}

void forward(const Plan& plan, const Args& args, cudaStream_t stream) {
  plan.kernel == Kernel::sm90 ? sm90::forward(plan, args, stream)
                              : portable::forward(plan, args, stream);
}

}  // namespace longhaul::attention::cuda
