#include "comm/cuda/staged_gather.h"

#include <algorithm>
#include <numeric>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/mpi_cuda.h"
#include "comm/fatal.h"

namespace longhaul::comm::cuda {

StagedGather::StagedGather(Communicator& comm)
    : GatherBase(comm), least_message_(least_device_message(comm)) {}

StagedGather::~StagedGather() {
  try {
    if (!unwinding()) wait_stream(comm_, stream_, {"end of the exchange"});
  } catch (...) {
    end_process(std::current_exception());
  }
}

void StagedGather::Area::grow(int64_t bytes, bool on_device) {
  if (bytes <= std::max(device_.bytes(), host_.bytes())) return;
  if (on_device)
    device_ = longhaul::cuda::Buffer(bytes, "staging of the exchange", MemoryUse::exchange);
  else
    host_ = longhaul::cuda::PinnedBuffer(bytes);
}

void StagedGather::reserve(int64_t bytes) {
  LH_CHECK(!under_way_, "reserve during gather {}", label_.name);
  comm_.all_reduce(&bytes, 1, DType::i64, ReduceOp::max, {"reserve exchange"});
  if (bytes <= capacity()) return;
  wait_stream(comm_, stream_, {"reserve exchange"});
  for (auto& b : buffers_) b.reset();
  for (auto& b : buffers_)
    b = longhaul::cuda::Buffer(bytes, "buffers of the exchange", MemoryUse::exchange);
}

void* StagedGather::buffer(int parity) const {
  return buffers_[static_cast<size_t>(parity)].data();
}

void StagedGather::set_plan(GatherPlan plan) {
  GatherBase::set_plan(std::move(plan));
  wait_stream(comm_, stream_, label_);  // the areas may move
  const auto padded = [&](int64_t bytes) {
    return bytes == 0 ? 0 : std::max(bytes, least_message_);
  };
  send_message_.clear();
  recv_message_.clear();
  for (size_t r = 0; r < plan_.send.size(); ++r) {
    send_message_.push_back(padded(plan_.send_bytes[r]));
    recv_message_.push_back(padded(plan_.recv_bytes[r]));
  }
  const auto sum = [](const std::vector<int64_t>& v) {
    return std::accumulate(v.begin(), v.end(), int64_t{0});
  };
  send_area_.grow(sum(send_message_), on_device());
  recv_area_.grow(sum(recv_message_), on_device());
}

void StagedGather::start(int parity, cudaStream_t stream, OpLabel label) {
  begin(parity, label);
  ready_.record(stream);
  ready_.make_wait(stream_);
  copies_.clear();
  const std::vector<int64_t> offsets = packed_offsets(send_message_);
  for (size_t r = 0; r < plan_.send.size(); ++r)
    copies_.add_pack(at(send_area_.data(), offsets[r]), buffer(parity), plan_.send[r]);
  copies_.enqueue(stream_);
  packed_.record(stream_);
}

// One pair of areas is enough: packing stands behind the last unpacking on stream_, and this host
// thread has seen the last exchange end.
void StagedGather::finish(cudaStream_t stream) {
  end();
  wait_device(comm_, packed_, label_);
  comm_.all_to_all_v(send_area_.data(), send_message_, recv_area_.data(), recv_message_, label_);
  copies_.clear();
  const std::vector<int64_t> offsets = packed_offsets(recv_message_);
  for (size_t r = 0; r < plan_.recv.size(); ++r)
    copies_.add_unpack(buffer(parity_), at(recv_area_.data(), offsets[r]), plan_.recv[r]);
  copies_.enqueue(stream_);
  unpacked_.record(stream_);
  unpacked_.make_wait(stream);
}

}  // namespace longhaul::comm::cuda
