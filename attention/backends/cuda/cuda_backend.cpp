#include "attention/backends/cuda/cuda_backend.h"

#include "attention/backends/cuda/attention.h"

namespace longhaul::attention::cuda {
namespace {
class CudaBackend : public Backend {
 public:
  std::string_view name() const override { return "cuda"; }
  DeviceKind device() const override { return DeviceKind::cuda; }
  Support supports(const AttentionDesc& desc) const override {
    std::string why;
    if (longhaul::cuda::device_count(&why) == 0) return {false, why};
    const Shape shape{desc.dtype, static_cast<int>(desc.head_dim),
                      static_cast<int>(desc.head_dim_v), 1, 1};
    const bool ok = supported(Kernel::sm90, longhaul::cuda::current_device(), shape, nullptr) ||
                    supported(Kernel::portable, longhaul::cuda::current_device(), shape, &why);
    return {ok, why};
  }
  void prepare(const AttentionDesc&, int) override {}
  void run(const AttentionArgs&, ThreadPool&) override {
    fail(ExitCode::internal, "not yet");
  }
};
}  // namespace
std::unique_ptr<Backend> make_cuda_backend() {
  return std::make_unique<CudaBackend>();
}
}  // namespace longhaul::attention::cuda
