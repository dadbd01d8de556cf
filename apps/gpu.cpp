#include "apps/gpu.h"

#include "runtime/core/check.h"
#include "runtime/core/log.h"
#if LONGHAUL_HAS_CUDA
#include "comm/cuda/nccl_communicator.h"
#include "runtime/core/cuda/check.h"
#include "runtime/core/cuda/device.h"
#endif

namespace longhaul::apps {

GpuInfo gpu_info() {
  GpuInfo info;
#if LONGHAUL_HAS_CUDA
  info.built_in = true;
  info.nccl = comm::cuda::nccl_built_in();
  int version = 0;
  LH_CUDA(cudaRuntimeGetVersion(&version));
  info.cuda_version = fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  const int count = cuda::device_count(&info.why_none);
  for (int i = 0; i < count; ++i) {
    const cuda::Device d = cuda::describe_device(i);
    info.devices.push_back(
        fmt::format("{}: {}, compute capability {}.{}{}, {} multiprocessors, {:.0f} GiB", i, d.name,
                    d.major, d.minor, d.major < 8 ? " (too old: 8.0 is needed)" : "",
                    d.multiprocessors, static_cast<double>(d.memory_bytes) / (1 << 30)));
  }
#else
  info.why_none = "no GPU backend in this build";
#endif
  return info;
}

void open_gpu([[maybe_unused]] comm::MpiSession& session) {
#if LONGHAUL_HAS_CUDA
  std::string why;
  const int count = cuda::device_count(&why);
  if (count == 0) fail(ExitCode::usage, "{}; leave --backend away to use CPU cores", why);
  const cuda::Device device = cuda::open_device(session.local_rank() % count);
  if (session.local_rank() == 0 && session.local_size() > count && count > 1)
    spdlog::warn("{}: {} ranks share {} GPUs; one rank a GPU is faster", session.host(),
                 session.local_size(), count);
  if (session.rank() == 0)
    spdlog::info("{} x {} ({} multiprocessors, {:.0f} GiB) on {}", count, device.name,
                 device.multiprocessors, static_cast<double>(device.memory_bytes) / (1 << 30),
                 session.host());
#else
  LH_CHECK(false, "a GPU backend in a build without CUDA");
#endif
}

}  // namespace longhaul::apps
