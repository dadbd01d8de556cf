#include "apps/gpu.h"

#include "runtime/core/check.h"
#include "runtime/core/log.h"
#if LONGHAUL_HAS_CUDA
#include "runtime/core/cuda/device.h"
#endif

namespace longhaul::apps {

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
