#include "runtime/core/cuda/device.h"

#include <array>
#include <mutex>
#include <utility>

#include "runtime/core/cuda/check.h"

namespace longhaul::cuda {
namespace {

constexpr int kMostDevices = 64;

Device look_at(int ordinal) {
  cudaDeviceProp p{};
  LH_CUDA(cudaGetDeviceProperties(&p, ordinal));
  Device d;
  d.ordinal = ordinal;
  d.multiprocessors = p.multiProcessorCount;
  d.major = p.major;
  d.minor = p.minor;
  d.memory_bytes = static_cast<int64_t>(p.totalGlobalMem);
  d.name = p.name;
  return d;
}

const Device& known_device(int ordinal) {
  static std::array<Device, kMostDevices> devices;
  static std::array<std::once_flag, kMostDevices> once;
  LH_CHECK(ordinal >= 0 && ordinal < kMostDevices, "device {}", ordinal);
  const auto i = static_cast<size_t>(ordinal);
  std::call_once(once[i], [&] { devices[i] = look_at(ordinal); });
  return devices[i];
}

}  // namespace

int device_count(std::string* why_none) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  (void)cudaGetLastError();
  if (why_none == nullptr) return 0;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  if (driver == 0)
    *why_none = "no NVIDIA driver on this host";
  else if (error == cudaSuccess || error == cudaErrorNoDevice)
    *why_none = "no GPU on this host";
  else
    *why_none = fmt::format("no usable GPU on this host ({})", cudaGetErrorString(error));
  return 0;
}

Device describe_device(int ordinal) {
  return known_device(ordinal);
}

Device open_device(int ordinal) {
  std::string why;
  const int count = device_count(&why);
  if (count == 0) fail(ExitCode::usage, "{}; leave --backend away to use its CPU cores", why);
  if (ordinal < 0 || ordinal >= count)
    fail(ExitCode::usage, "GPU {} asked for, but this host shows {}", ordinal, count);
  const Device& d = known_device(ordinal);
  if (d.major < 8)
    fail(ExitCode::usage,
         "GPU {} ({}) has compute capability {}.{}; longhaul's kernels need 8.0 or later", ordinal,
         d.name, d.major, d.minor);
  LH_CUDA(cudaSetDevice(ordinal));
  return d;
}

const Device& current_device() {
  int ordinal = 0;
  LH_CUDA(cudaGetDevice(&ordinal));
  return known_device(ordinal);
}

Stream::Stream() {
  LH_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}
// A failure here was met before by whoever waited for the stream's work.
Stream::~Stream() {
  (void)cudaStreamDestroy(stream_);
}

Event::Event(Timing timing) {
  LH_CUDA(cudaEventCreateWithFlags(
      &event_, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming));
}
Event::~Event() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}
Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}
void Event::record(cudaStream_t stream) {
  LH_CUDA(cudaEventRecord(event_, stream));
}
void Event::make_wait(cudaStream_t stream) const {
  LH_CUDA(cudaStreamWaitEvent(stream, event_, 0));
}
bool Event::done() const {
  const cudaError_t state = cudaEventQuery(event_);
  if (state == cudaErrorNotReady) return false;
  LH_CUDA(state);
  return true;
}

double milliseconds_between(const Event& from, const Event& to) {
  float ms = 0;
  LH_CUDA(cudaEventElapsedTime(&ms, from.get(), to.get()));
  return static_cast<double>(ms);
}

}  // namespace longhaul::cuda
