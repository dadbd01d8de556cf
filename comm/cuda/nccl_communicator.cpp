#include "comm/cuda/nccl_communicator.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "comm/cuda/copy_many.h"
#include "comm/cuda/device_wait.h"
#include "comm/cuda/gather_plan.h"
#include "comm/cuda/peer_memory.h"
#include "comm/fatal.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#ifdef LONGHAUL_HAS_NCCL
#include <nccl.h>
#endif

namespace longhaul::comm::cuda {

bool nccl_built_in() {
#ifdef LONGHAUL_HAS_NCCL
  return true;
#else
  return false;
#endif
}

std::string why_no_nccl(Communicator& bootstrap) {
#ifdef LONGHAUL_HAS_NCCL
  struct Card {
    char machine[48] = {};
    cudaUUID_t device{};
  } mine;
  machine_id().copy(mine.machine, sizeof mine.machine - 1);
  cudaDeviceProp properties{};
  LH_CUDA(cudaGetDeviceProperties(&properties, longhaul::cuda::current_device().ordinal));
  mine.device = properties.uuid;
  std::vector<Card> all(static_cast<size_t>(bootstrap.size()));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof mine));
  bootstrap.all_gather_v(&mine, sizeof mine, all.data(), bytes, {"which GPUs"});
  std::map<std::string, size_t> owner;
  for (size_t r = 0; r < all.size(); ++r) {
    const std::string key = all[r].machine + std::string(all[r].device.bytes, 16);
    const auto [at, is_new] = owner.emplace(key, r);
    if (!is_new) return fmt::format("ranks {} and {} share a GPU", at->second, r);
  }
  return "";
#else
  (void)bootstrap;
  return "longhaul was built without NCCL";
#endif
}

#ifdef LONGHAUL_HAS_NCCL
namespace {

using longhaul::cuda::Event;
using longhaul::cuda::Stream;

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return ncclFloat64;
    case DType::f32:
      return ncclFloat32;
    case DType::i64:
      return ncclInt64;
    case DType::i32:
      return ncclInt32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::u8:
      break;
  }
  LH_CHECK(false, "all_reduce over {}", dtype_name(dtype));
  return ncclInt8;
}

ncclRedOp_t nccl_op(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::min ? ncclMin : ncclMax;
}

class Nccl final : public NcclCommunicator {
 public:
  explicit Nccl(Communicator& bootstrap)
      : bootstrap_(bootstrap),
        exceptions_before_(std::uncaught_exceptions()),
        word_(256, "barrier word", MemoryUse::exchange) {
    (void)setenv("NCCL_NVLS_ENABLE", "0", 0);
    LH_CUDA(cudaMemset(word_.data(), 0, 256));
    ncclUniqueId id{};
    if (rank() == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId", kInit);
    bootstrap.broadcast(&id, sizeof id, 0, kInit);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "ncclCommInitRankConfig",
          kInit);
    settle(kInit);
  }

  ~Nccl() override {
    if (comm_ == nullptr) return;
    if (std::uncaught_exceptions() > exceptions_before_) {
      abort();
      return;
    }
    try {
      wait_stream(bootstrap_, stream_, {"end of NCCL"}, [this] { check(); });
      check(ncclCommFinalize(comm_), "ncclCommFinalize", {"end of NCCL"});
      settle({"end of NCCL"});
      ncclComm_t comm = std::exchange(comm_, nullptr);
      check(ncclCommDestroy(comm), "ncclCommDestroy", {"end of NCCL"});
    } catch (...) {
      end_process(std::current_exception());
    }
  }

  int rank() const override { return bootstrap_.rank(); }
  int size() const override { return bootstrap_.size(); }
  Traffic traffic() const override { return traffic_; }
  Progress* progress() override { return bootstrap_.progress(); }
  cudaStream_t stream() const override { return stream_; }

  void follow(cudaStream_t stream) override {
    followed_.record(stream);
    followed_.make_wait(stream_);
  }

  void check() override {
    if (comm_ == nullptr) fail(ExitCode::peer_lost, "NCCL was aborted after an error");
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError", last_);
    check(state, "a transfer", last_);
  }

  void enqueue_exchange(std::span<const Transfer> sends, std::span<const Transfer> receives,
                        OpLabel label, cudaStream_t stream) override {
    begin(label);
    if (sends.empty() && receives.empty()) return;
    check(ncclGroupStart(), "ncclGroupStart", label);
    for (const Transfer& t : sends)
      if (t.bytes > 0) {
        check(ncclSend(t.data, static_cast<size_t>(t.bytes), ncclUint8, t.peer, comm_, stream),
              "ncclSend", label, t.peer);
        traffic_.sent_bytes += t.bytes;
      }
    for (const Transfer& t : receives)
      if (t.bytes > 0) {
        check(ncclRecv(t.data, static_cast<size_t>(t.bytes), ncclUint8, t.peer, comm_, stream),
              "ncclRecv", label, t.peer);
        traffic_.received_bytes += t.bytes;
      }
    check(ncclGroupEnd(), "ncclGroupEnd", label);
    settle(label);
  }

  void enqueue_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                            std::span<const int64_t> recv_bytes, OpLabel label,
                            cudaStream_t stream) override {
    const std::vector<int64_t> sizes(recv_bytes.begin(), recv_bytes.end());
    const std::vector<int64_t> offsets = packed_offsets(sizes);
    const auto self = static_cast<size_t>(rank());
    LH_CHECK(sizes.size() == static_cast<size_t>(size()) && sizes[self] == send_bytes,
             "{}: {} bytes of rank {}", label.name, send_bytes, rank());
    if (std::all_of(sizes.begin(), sizes.end(), [&](int64_t b) { return b == send_bytes; })) {
      begin(label);
      if (send_bytes == 0) return;
      check(ncclAllGather(send, recv, static_cast<size_t>(send_bytes), ncclUint8, comm_, stream),
            "ncclAllGather", label);
      settle(label);
      traffic_.sent_bytes += send_bytes * (size() - 1);
      traffic_.received_bytes += send_bytes * (size() - 1);
      return;
    }
    copy_own(at(recv, offsets[self]), send, send_bytes, stream);
    std::vector<Transfer> sends, receives;
    for (size_t r = 0; r < sizes.size(); ++r) {
      if (r == self) continue;
      sends.push_back({static_cast<int>(r), const_cast<void*>(send), send_bytes});
      receives.push_back({static_cast<int>(r), at(recv, offsets[r]), sizes[r]});
    }
    enqueue_exchange(sends, receives, label, stream);
  }

  void enqueue_all_to_all_v(const void* send, std::span<const int64_t> send_bytes, void* recv,
                            std::span<const int64_t> recv_bytes, OpLabel label,
                            cudaStream_t stream) override {
    const std::vector<int64_t> to(send_bytes.begin(), send_bytes.end());
    const std::vector<int64_t> from(recv_bytes.begin(), recv_bytes.end());
    const std::vector<int64_t> send_at = packed_offsets(to), recv_at = packed_offsets(from);
    const auto self = static_cast<size_t>(rank());
    LH_CHECK(to.size() == static_cast<size_t>(size()) && from.size() == to.size() &&
                 to[self] == from[self],
             "{}: {} and {} sizes", label.name, to.size(), from.size());
    copy_own(at(recv, recv_at[self]), at(send, send_at[self]), to[self], stream);
    std::vector<Transfer> sends, receives;
    for (size_t r = 0; r < to.size(); ++r) {
      if (r == self) continue;
      sends.push_back({static_cast<int>(r), at(const_cast<void*>(send), send_at[r]), to[r]});
      receives.push_back({static_cast<int>(r), at(recv, recv_at[r]), from[r]});
    }
    enqueue_exchange(sends, receives, label, stream);
  }

  void enqueue_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                         int64_t recv_bytes, int from, OpLabel label,
                         cudaStream_t stream) override {
    if (to == rank() || from == rank()) {
      LH_CHECK(to == from && send_bytes == recv_bytes, "{}: a message to the rank itself",
               label.name);
      begin(label);
      copy_own(recv, send, send_bytes, stream);
      return;
    }
    const Transfer out{to, const_cast<void*>(send), send_bytes}, in{from, recv, recv_bytes};
    enqueue_exchange({&out, to < 0 ? 0u : 1u}, {&in, from < 0 ? 0u : 1u}, label, stream);
  }

  void enqueue_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op, OpLabel label,
                          cudaStream_t stream) override {
    begin(label);
    const ncclDataType_t type = nccl_type(dtype);
    if (count == 0) return;
    check(ncclAllReduce(data, data, static_cast<size_t>(count), type, nccl_op(op), comm_, stream),
          "ncclAllReduce", label);
    settle(label);
    // What a rank must at least send and receive.
    const int64_t bytes = 2 * count * dtype_size(dtype) / size() * (size() - 1);
    traffic_.sent_bytes += bytes;
    traffic_.received_bytes += bytes;
  }

  void enqueue_broadcast(void* data, int64_t bytes, int root, OpLabel label,
                         cudaStream_t stream) override {
    begin(label);
    if (bytes == 0) return;
    check(ncclBroadcast(data, data, static_cast<size_t>(bytes), ncclUint8, root, comm_, stream),
          "ncclBroadcast", label);
    settle(label);
    if (root != rank())
      traffic_.received_bytes += bytes;
    else if (size() > 1)
      traffic_.sent_bytes += bytes;
  }

  Request start_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override {
    enqueue_all_gather_v(send, send_bytes, recv, recv_bytes, label, stream_);
    return request(label);
  }
  Request start_all_to_all_v(const void* send, std::span<const int64_t> send_bytes, void* recv,
                             std::span<const int64_t> recv_bytes, OpLabel label) override {
    enqueue_all_to_all_v(send, send_bytes, recv, recv_bytes, label, stream_);
    return request(label);
  }
  Request start_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                          int64_t recv_bytes, int from, OpLabel label) override {
    enqueue_send_recv(send, send_bytes, to, recv, recv_bytes, from, label, stream_);
    return request(label);
  }
  Request start_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                           OpLabel label) override {
    enqueue_all_reduce(data, count, dtype, op, label, stream_);
    return request(label);
  }
  Request start_broadcast(void* data, int64_t bytes, int root, OpLabel label) override {
    enqueue_broadcast(data, bytes, root, label, stream_);
    return request(label);
  }
  Request start_barrier(OpLabel label) override {
    const Traffic before = traffic_;
    enqueue_all_reduce(word_.data(), 1, DType::i32, ReduceOp::max, label, stream_);
    traffic_ = before;
    return request(label);
  }

 private:
  static constexpr OpLabel kInit{"NCCL init"};

  class Pending final : public Request::Impl {
   public:
    Pending(Nccl& comm, OpLabel label) : comm_(comm), label_(label) { done_.record(comm.stream_); }
    bool test() override {
      comm_.check();
      return done_.done();
    }
    void wait() override {
      wait_device(comm_.bootstrap_, done_, label_, [this] { comm_.check(); });
    }

   private:
    Nccl& comm_;
    const OpLabel label_;
    Event done_;
  };

  Request request(OpLabel label) { return Request(std::make_unique<Pending>(*this, label)); }

  void begin(OpLabel label) {
    if (comm_ == nullptr) fail(ExitCode::peer_lost, "NCCL was aborted after an error");
    last_ = label;
    if (Progress* p = progress()) p->enter(label.name, label.layer);
  }

  void copy_own(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
    if (bytes > 0)
      LH_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream));
  }

  // A non-blocking communicator takes the next call, and its stream, only when this one is through.
  // The first message between two ranks sets up their connection, which takes both.
  void settle(OpLabel label) {
    const auto through = [&] {
      ncclResult_t state = ncclSuccess;
      check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError", label);
      check(state, "a transfer", label);
      return state != ncclInProgress;
    };
    constexpr int kSpinTurns = 1000;
    for (int i = 0; i < kSpinTurns; ++i)
      if (through()) return;
    wait_until(bootstrap_, label, through);
  }

  void check(ncclResult_t result, const char* call, OpLabel label, int peer = -1) {
    if (result == ncclSuccess || result == ncclInProgress) return;
    std::string text = fmt::format("NCCL: {} failed in {}", call, label.name);
    if (label.layer >= 0) text += fmt::format(", layer {}", label.layer);
    if (peer >= 0) text += fmt::format(", with rank {}", peer);
    text += fmt::format(": {}", ncclGetErrorString(result));
    const char* more = comm_ != nullptr ? ncclGetLastError(comm_) : nullptr;
    if (more != nullptr && more[0] != 0) text += fmt::format(" ({})", more);
    abort();
    const bool defect = result == ncclInvalidArgument || result == ncclInvalidUsage;
    throw Error(defect ? ExitCode::internal : ExitCode::peer_lost, text, __FILE__, __LINE__);
  }

  // Ends this rank's kernels that wait for others.
  void abort() {
    if (comm_ != nullptr) (void)ncclCommAbort(std::exchange(comm_, nullptr));
  }

  Communicator& bootstrap_;
  const int exceptions_before_;
  longhaul::cuda::Buffer word_;
  Stream stream_;
  Event followed_;
  ncclComm_t comm_ = nullptr;
  OpLabel last_ = kInit;
  Traffic traffic_;
};

}  // namespace

std::unique_ptr<NcclCommunicator> make_nccl(Communicator& bootstrap) {
  if (const std::string why = why_no_nccl(bootstrap); !why.empty())
    fail(ExitCode::usage, "NCCL cannot run here: {}", why);
  return std::make_unique<Nccl>(bootstrap);
}

std::string nccl_version() {
  int code = 0;
  if (ncclGetVersion(&code) != ncclSuccess) return "";
  return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

#else

std::string nccl_version() {
  return "";
}

std::unique_ptr<NcclCommunicator> make_nccl(Communicator& bootstrap) {
  fail(ExitCode::usage, "NCCL cannot run here: {}", why_no_nccl(bootstrap));
}

#endif

}  // namespace longhaul::comm::cuda
