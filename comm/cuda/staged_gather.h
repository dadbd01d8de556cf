#pragma once
// The gather that works everywhere: through page-locked host memory and the host's communicator, or
// straight out of device memory where MPI takes device pointers. Blocks the host in finish().

#include <array>
#include <memory>

#include "comm/cuda/copy_many.h"
#include "comm/cuda/gather_base.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::comm::cuda {

class StagedGather final : public GatherBase {
 public:
  explicit StagedGather(Communicator& comm);
  ~StagedGather() override;
  bool on_device() const { return least_message_ > 0; }  // MPI takes device pointers

  std::string_view name() const override { return "staged"; }
  void reserve(int64_t bytes) override;
  int64_t capacity() const override { return buffers_[0].bytes(); }
  void* buffer(int parity) const override;
  void set_plan(GatherPlan plan) override;
  void start(int parity, cudaStream_t stream, OpLabel label) override;
  void finish(cudaStream_t stream) override;
  cudaStream_t sending_stream() const override { return stream_; }
  void check() override {}

 private:
  // Where packed segments lie between device and wire.
  class Area {
   public:
    void grow(int64_t bytes, bool on_device);
    void* data() const { return device_.data() ? device_.data() : host_.data(); }

   private:
    longhaul::cuda::Buffer device_;
    longhaul::cuda::PinnedBuffer host_;
  };

  // Messages of device memory must be longer than those that the transport copies by itself; 0
  // where the area is host memory.
  const int64_t least_message_;
  std::array<longhaul::cuda::Buffer, 2> buffers_;
  Area send_area_, recv_area_;
  std::vector<int64_t> send_message_, recv_message_;  // [size] bytes on the wire
  longhaul::cuda::Stream stream_;
  longhaul::cuda::Event ready_, packed_, unpacked_;
  CopyList copies_;
};

}  // namespace longhaul::comm::cuda
