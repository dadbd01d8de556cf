// The communicator over NCCL against the cases that every communicator must pass: an adapter
// carries their host memory to the device and back.

#include <gtest/gtest.h>

#include <numeric>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/measure_kernels.h"
#include "comm/cuda/nccl_communicator.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#include "tests/support/communicator_cases.h"
#include "tests/support/mpi_main.h"

namespace longhaul::comm::cuda {
namespace {

using longhaul::cuda::Buffer;

int64_t sum(std::span<const int64_t> v) {
  return std::accumulate(v.begin(), v.end(), int64_t{0});
}

class HostAdapter final : public Communicator {
 public:
  explicit HostAdapter(NcclCommunicator& nccl) : nccl_(nccl) {}
  int rank() const override { return nccl_.rank(); }
  int size() const override { return nccl_.size(); }
  Traffic traffic() const override { return nccl_.traffic(); }
  Progress* progress() override { return nccl_.progress(); }

  Request start_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override {
    auto carrier = carry(send, send_bytes, recv, sum(recv_bytes));
    carrier->request = nccl_.start_all_gather_v(carrier->send.data(), send_bytes,
                                                carrier->recv.data(), recv_bytes, label);
    return Request(std::move(carrier));
  }
  Request start_all_to_all_v(const void* send, std::span<const int64_t> send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override {
    auto carrier = carry(send, sum(send_bytes), recv, sum(recv_bytes));
    carrier->request = nccl_.start_all_to_all_v(carrier->send.data(), send_bytes,
                                                carrier->recv.data(), recv_bytes, label);
    return Request(std::move(carrier));
  }
  Request start_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                          int64_t recv_bytes, int from, OpLabel label) override {
    auto carrier = carry(send, to < 0 ? 0 : send_bytes, recv, from < 0 ? 0 : recv_bytes);
    carrier->request = nccl_.start_send_recv(carrier->send.data(), send_bytes, to,
                                             carrier->recv.data(), recv_bytes, from, label);
    return Request(std::move(carrier));
  }
  Request start_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                           OpLabel label) override {
    auto carrier = carry_in_place(data, count * dtype_size(dtype));
    carrier->request = nccl_.start_all_reduce(carrier->recv.data(), count, dtype, op, label);
    return Request(std::move(carrier));
  }
  Request start_broadcast(void* data, int64_t bytes, int root, OpLabel label) override {
    auto carrier = carry_in_place(data, bytes);
    carrier->request = nccl_.start_broadcast(carrier->recv.data(), bytes, root, label);
    return Request(std::move(carrier));
  }
  Request start_barrier(OpLabel label) override { return nccl_.start_barrier(label); }

 private:
  struct Carrier final : Request::Impl {
    Buffer send, recv;
    void* to = nullptr;
    Request request;
    bool arrived = false;
    bool test() override {
      if (!arrived && request.test()) wait();
      return arrived;
    }
    void wait() override {
      request.wait();
      if (!arrived && recv.bytes() > 0)
        LH_CUDA(
            cudaMemcpy(to, recv.data(), static_cast<size_t>(recv.bytes()), cudaMemcpyDeviceToHost));
      arrived = true;
    }
  };
  std::unique_ptr<Carrier> carry(const void* send, int64_t send_bytes, void* recv,
                                 int64_t recv_bytes) {
    auto carrier = std::make_unique<Carrier>();
    carrier->send = Buffer(send_bytes, "test", MemoryUse::exchange);
    carrier->recv = Buffer(recv_bytes, "test", MemoryUse::exchange);
    carrier->to = recv;
    copy_in(carrier->send, send);
    return carrier;
  }
  std::unique_ptr<Carrier> carry_in_place(void* data, int64_t bytes) {
    auto carrier = std::make_unique<Carrier>();
    carrier->recv = Buffer(bytes, "test", MemoryUse::exchange);
    carrier->to = data;
    copy_in(carrier->recv, data);
    return carrier;
  }
  void copy_in(const Buffer& to, const void* from) {
    if (to.bytes() > 0)
      LH_CUDA(cudaMemcpyAsync(to.data(), from, static_cast<size_t>(to.bytes()),
                              cudaMemcpyHostToDevice, nccl_.stream()));
  }

  NcclCommunicator& nccl_;
};

class GpuNccl : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    const int devices = longhaul::cuda::device_count(&why);
    if (devices == 0) GTEST_SKIP() << why;
    longhaul::cuda::open_device(testing_support::session().local_rank() % devices);
    why = why_no_nccl(world());
    if (!why.empty()) GTEST_SKIP() << why;
    nccl_ = make_nccl(world());
    host_ = std::make_unique<HostAdapter>(*nccl_);
  }
  static Communicator& world() { return testing_support::session().world(); }
  std::unique_ptr<NcclCommunicator> nccl_;
  std::unique_ptr<HostAdapter> host_;
};

TEST_F(GpuNccl, EveryOperation) {
  cases::all_gather_random(*host_, 1, 60);
  cases::all_to_all_random(*host_, 2, 60);
  cases::send_recv_shifts(*host_, 3, 60);
  cases::broadcast_random(*host_, 5, 60);
  cases::barrier_holds(*host_, 6, 60);
  cases::traffic_counts(*host_);
}

TEST_F(GpuNccl, ManyUnderWay) {
  cases::overlapping(*host_, 7, 5);
  cases::storm(*host_, 9, 300);
}

TEST_F(GpuNccl, Large) {
  cases::large(*host_, (int64_t{90} << 20) + 12345);
}

TEST_F(GpuNccl, Reductions) {
  const int n = world().size(), r = world().rank();
  for (const int64_t count : {int64_t{1}, int64_t{1000}, int64_t{300001}}) {
    const auto size = static_cast<size_t>(count);
    std::vector<int64_t> sums(size), low(size);
    std::vector<int32_t> high(size);
    std::vector<float> floats(size);
    std::vector<double> doubles(size);
    for (size_t i = 0; i < size; ++i) {
      const auto k = static_cast<int64_t>(i);
      sums[i] = (k << 33) + r;
      low[i] = k - r;
      high[i] = static_cast<int32_t>(k) + r;
      floats[i] = static_cast<float>(k % 1000) * 0.5f + static_cast<float>(r);
      doubles[i] = static_cast<double>(k) + 0.25 * r;
    }
    host_->all_reduce(sums.data(), count, DType::i64, ReduceOp::sum, {"sum"});
    host_->all_reduce(low.data(), count, DType::i64, ReduceOp::min, {"min"});
    host_->all_reduce(high.data(), count, DType::i32, ReduceOp::max, {"max"});
    host_->all_reduce(floats.data(), count, DType::f32, ReduceOp::sum, {"floats"});
    host_->all_reduce(doubles.data(), count, DType::f64, ReduceOp::sum, {"doubles"});
    const int of_ranks = n * (n - 1) / 2;
    for (size_t i = 0; i < size; ++i) {
      const auto k = static_cast<int64_t>(i);
      ASSERT_EQ(sums[i], (k << 33) * n + of_ranks);
      ASSERT_EQ(low[i], k - (n - 1));
      ASSERT_EQ(high[i], k + n - 1);
      // Small multiples of a half: exact in any order.
      ASSERT_EQ(floats[i], static_cast<float>(k % 1000) * 0.5f * static_cast<float>(n) +
                               static_cast<float>(of_ranks));
      ASSERT_EQ(doubles[i], static_cast<double>(k) * n + 0.25 * of_ranks);
    }
  }
}

TEST_F(GpuNccl, EnqueuedInAStreamOfTheCaller) {
  const int n = world().size(), r = world().rank();
  constexpr int64_t kBytes = 100000;
  const longhaul::cuda::Stream stream;
  const Buffer send(kBytes, "test", MemoryUse::exchange);
  const Buffer recv(kBytes * n, "test", MemoryUse::exchange), wrong(8, "test", MemoryUse::exchange);
  auto* counter = static_cast<unsigned long long*>(wrong.data());
  LH_CUDA(cudaMemset(wrong.data(), 0, 8));
  const std::vector<int64_t> sizes(static_cast<size_t>(n), kBytes);
  for (uint64_t turn = 0; turn < 50; ++turn) {
    spin(static_cast<double>((turn * 37 + static_cast<uint64_t>(r) * 11) % 60), stream);
    fill_pattern(send.data(), 0, kBytes, turn * 10 + static_cast<uint64_t>(r), stream);
    nccl_->enqueue_all_gather_v(send.data(), kBytes, recv.data(), sizes, {"enqueued"}, stream);
    for (int p = 0; p < n; ++p)
      count_wrong(static_cast<char*>(recv.data()) + kBytes * p, 0, kBytes,
                  turn * 10 + static_cast<uint64_t>(p), counter, stream);
  }
  wait_stream(world(), stream, {"enqueued"}, [&] { nccl_->check(); });
  int64_t count = 0;
  LH_CUDA(cudaMemcpy(&count, wrong.data(), 8, cudaMemcpyDeviceToHost));
  EXPECT_EQ(count, 0);
}

TEST_F(GpuNccl, MoreThan2To31Bytes) {
  if (world().size() != 2) GTEST_SKIP() << "for two ranks";
  const int64_t bytes = (int64_t{1} << 31) + 12345;
  const Buffer data(bytes, "test", MemoryUse::exchange), wrong(8, "test", MemoryUse::exchange);
  LH_CUDA(cudaMemset(wrong.data(), 0, 8));
  const longhaul::cuda::Stream stream;
  const bool sends = world().rank() == 0;
  fill_pattern(data.data(), 0, bytes, sends ? 3 : 4, stream);
  nccl_->enqueue_send_recv(sends ? data.data() : nullptr, bytes, sends ? 1 : -1,
                           sends ? nullptr : data.data(), bytes, sends ? -1 : 0, {"huge"}, stream);
  count_wrong(data.data(), 0, bytes, 3, static_cast<unsigned long long*>(wrong.data()), stream);
  wait_stream(world(), stream, {"huge"}, [&] { nccl_->check(); });
  int64_t count = 0;
  LH_CUDA(cudaMemcpy(&count, wrong.data(), 8, cudaMemcpyDeviceToHost));
  EXPECT_EQ(count, 0);
}

}  // namespace
}  // namespace longhaul::comm::cuda
