#include "comm/cuda/nccl_gather.h"

#include <array>
#include <vector>

#include "comm/cuda/copy_many.h"
#include "comm/cuda/device_wait.h"
#include "comm/cuda/gather_base.h"
#include "comm/cuda/nccl_communicator.h"
#include "comm/fatal.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::comm::cuda {
namespace {

// Receives are posted by this rank's own stream, so the re-use of buffers needs no more than that.
class NcclGather final : public GatherBase {
 public:
  explicit NcclGather(Communicator& comm) : GatherBase(comm), nccl_(make_nccl(comm)) {}
  ~NcclGather() override {
    if (unwinding()) {
      nccl_.reset();  // aborts: or freeing memory would wait for kernels that wait for others
      return;
    }
    try {
      wait_stream(comm_, stream_, {"end of the exchange"}, [this] { check(); });
    } catch (...) {
      end_process(std::current_exception());
    }
  }

  std::string_view name() const override { return "nccl"; }
  int64_t capacity() const override { return buffers_[0].bytes(); }
  void* buffer(int parity) const override { return buffers_[static_cast<size_t>(parity)].data(); }

  void reserve(int64_t bytes) override {
    LH_CHECK(!under_way_, "reserve during gather {}", label_.name);
    comm_.all_reduce(&bytes, 1, DType::i64, ReduceOp::max, {"reserve exchange"});
    if (bytes <= capacity()) return;
    wait_stream(comm_, stream_, {"reserve exchange"}, [this] { check(); });
    for (auto& b : buffers_) b.reset();
    for (auto& b : buffers_)
      b = longhaul::cuda::Buffer(bytes, "buffers of the exchange", MemoryUse::exchange);
  }

  void start(int parity, cudaStream_t stream, OpLabel label) override {
    begin(parity, label);
    ready_.record(stream);
    ready_.make_wait(stream_);
    sends_.clear();
    receives_.clear();
    void* own = buffer(parity);
    const auto n = static_cast<size_t>(size()), self = static_cast<size_t>(rank());
    for (size_t d = 1; d < n; ++d) {
      const size_t to = (self + d) % n, from = (self + n - d) % n;
      for (const Segment& s : plan_.send[to])
        sends_.push_back({static_cast<int>(to), at(own, s.offset), s.bytes});
      for (const Segment& s : plan_.recv[from])
        receives_.push_back({static_cast<int>(from), at(own, s.offset), s.bytes});
    }
    nccl_->enqueue_exchange(sends_, receives_, label, stream_);
    received_.record(stream_);
  }

  cudaStream_t sending_stream() const override { return stream_; }
  void finish(cudaStream_t stream) override {
    end();
    received_.make_wait(stream);
  }
  void check() override { nccl_->check(); }

 private:
  std::unique_ptr<NcclCommunicator> nccl_;
  std::array<longhaul::cuda::Buffer, 2> buffers_;
  longhaul::cuda::Stream stream_;
  longhaul::cuda::Event ready_, received_;
  std::vector<NcclCommunicator::Transfer> sends_, receives_;
};

}  // namespace

std::unique_ptr<Gather> make_nccl_gather(Communicator& comm, std::string* why) {
  if (const std::string refusal = why_no_nccl(comm); !refusal.empty()) {
    if (why != nullptr) *why = refusal;
    return nullptr;
  }
  return std::make_unique<NcclGather>(comm);
}

}  // namespace longhaul::comm::cuda
