#pragma once
// One GPU, its streams and events as objects.

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace longhaul::cuda {

struct Device {
  int ordinal = 0;
  int multiprocessors = 0;
  int major = 0, minor = 0;  // compute capability
  int64_t memory_bytes = 0;
  std::string name;

  bool hopper() const { return major == 9 && minor == 0; }  // sm_90a code runs
};

// 0 where there is no GPU or no driver; `why_none` (may be null) then says which.
int device_count(std::string* why_none);
// Looks at it and changes nothing.
Device describe_device(int ordinal);
// Makes it the calling thread's device. Throws Error(usage) for one that is not there or is older
// than compute capability 8.0.
Device open_device(int ordinal);
// Of the calling thread's device; looked up once per device.
const Device& current_device();

class Stream {
 public:
  Stream();  // does not synchronise with the legacy default stream
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  enum class Timing { off, on };
  explicit Event(Timing timing = Timing::off);
  ~Event();
  Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
  Event& operator=(Event&& other) noexcept;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream);
  void make_wait(cudaStream_t stream) const;  // later work on `stream` waits for the record
  bool done() const;                          // throws what the device has failed with
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Between two events recorded with timing, both done.
double milliseconds_between(const Event& from, const Event& to);

}  // namespace longhaul::cuda
