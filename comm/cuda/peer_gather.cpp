#include "comm/cuda/peer_gather.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "comm/cuda/device_wait.h"
#include "comm/fatal.h"

namespace longhaul::comm::cuda {
namespace {

constexpr int64_t kMostPieces = 4096;
constexpr int64_t kWordsBytes = int64_t{4} * (2 * kMostPeers + 1);

uint32_t* word(void* base, int index) {
  return static_cast<uint32_t*>(base) + index;
}

}  // namespace

std::unique_ptr<PeerGather> PeerGather::make(Communicator& comm, const PeerOptions& options,
                                             std::string* why) {
  if (comm.size() > kMostPeers) {
    if (why != nullptr) *why = fmt::format("{} ranks, {} at most", comm.size(), kMostPeers);
    return nullptr;
  }
  auto words = PeerMemory::open(comm, kWordsBytes, "signals of the exchange", why);
  if (!words) return nullptr;
  std::unique_ptr<PeerGather> gather(new PeerGather(comm, options, std::move(words)));
  if (gather->probe()) return gather;
  if (options.memory_operations) {
    gather->signals_ = Signals(false);
    if (gather->probe()) return gather;
  }
  if (why != nullptr) *why = "signals between GPUs do not arrive";
  return nullptr;
}

PeerGather::PeerGather(Communicator& comm, const PeerOptions& options,
                       std::unique_ptr<PeerMemory> words)
    : GatherBase(comm),
      options_(options),
      words_(std::move(words)),
      signals_(options.memory_operations),
      epoch_(options.first_epoch) {
  std::vector<uint32_t> first(static_cast<size_t>(kWordsBytes / 4), 0);
  std::fill_n(first.begin(), kMostPeers, epoch_);
  LH_CUDA(cudaMemcpy(words_->own(), first.data(), first.size() * 4, cudaMemcpyHostToDevice));
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) own_flags_.push_back(word(words_->own(), r));
    flags_at_peers_.push_back(word(words_->addresses()[static_cast<size_t>(r)], rank()));
  }
  copies_.set_longest(options.copy_bytes);
  for (PieceTable& t : tables_) {
    constexpr int64_t kBytes = kMostPieces * static_cast<int64_t>(sizeof(PushPiece));
    t.device = longhaul::cuda::Buffer(kBytes, "table of the exchange", MemoryUse::exchange);
    t.host = longhaul::cuda::PinnedBuffer(kBytes);
  }
}

bool PeerGather::probe() {
  std::vector<uint32_t*> theirs, ours;
  for (int r = 0; r < size(); ++r) {
    void* base = words_->addresses()[static_cast<size_t>(r)];
    theirs.push_back(word(base, kMostPeers + rank()));
    ours.push_back(word(words_->own(), kMostPeers + r));
  }
  const uint32_t value = signals_.memory_operations() ? 1 : 2;
  int32_t good = 1;
  comm_.barrier({"probe GPU signals"});  // all words are initialised
  try {
    signals_.write(release_, theirs, value);
    wait_stream(comm_, release_, {"probe GPU signals"});
  } catch (const Error& e) {
    if (e.code() != ExitCode::internal) throw;
    good = 0;
  }
  comm_.barrier({"probe GPU signals"});
  std::vector<uint32_t> seen(ours.size(), 0);
  LH_CUDA(cudaMemcpy(seen.data(), ours.front(), seen.size() * 4, cudaMemcpyDeviceToHost));
  if (std::any_of(seen.begin(), seen.end(), [&](uint32_t s) { return s < value; })) good = 0;
  try {
    if (good) signals_.wait(release_, ours, value);
    wait_stream(comm_, release_, {"probe GPU signals"});
  } catch (const Error& e) {
    if (e.code() != ExitCode::internal) throw;
    good = 0;
  }
  comm_.all_reduce(&good, 1, DType::i32, ReduceOp::min, {"probe GPU signals"});
  return good == 1;
}

PeerGather::~PeerGather() {
  try {
    if (unwinding()) {
      // Nobody will signal any more: let this rank's streams go, or freeing memory waits for ever.
      signals_.write(release_, own_flags_, epoch_);
      return;
    }
    wait_device(comm_, pushed_, {"end of the exchange"});
  } catch (...) {
    if (!unwinding()) end_process(std::current_exception());
  }
}

void PeerGather::reserve(int64_t bytes) {
  LH_CHECK(!under_way_, "reserve during gather {}", label_.name);
  comm_.all_reduce(&bytes, 1, DType::i64, ReduceOp::max, {"reserve exchange"});
  if (bytes <= capacity()) return;
  wait_device(comm_, pushed_, {"reserve exchange"});
  for (auto& b : buffers_) b.reset();
  for (auto& b : buffers_) {
    std::string why;
    b = PeerMemory::open(comm_, bytes, "buffers of the exchange", &why);
    LH_CHECK(b, "GPU memory of {} bytes cannot be shared: {}", bytes, why);
  }
}

void* PeerGather::buffer(int parity) const {
  const auto& b = buffers_[static_cast<size_t>(parity)];
  return b ? b->own() : nullptr;
}

std::span<void* const> PeerGather::peer_buffers(int parity) const {
  const auto& b = buffers_[static_cast<size_t>(parity)];
  return b ? b->addresses() : std::span<void* const>();
}

void PeerGather::set_plan(GatherPlan plan) {
  GatherBase::set_plan(std::move(plan));
  table_ = 1 - table_;
  PieceTable& t = tables_[static_cast<size_t>(table_)];
  t.count = -1;
  if (plan_.total_send > options_.kernel_push_bytes) return;
  const std::vector<PushPiece> pieces = cut_pieces(plan_, rank(), kPushPieceBytes);
  if (static_cast<int64_t>(pieces.size()) > kMostPieces) return;
  wait_device(comm_, t.used, label_);  // by the plan before last
  t.count = static_cast<int>(pieces.size());
  if (pieces.empty()) return;
  std::memcpy(t.host.data(), pieces.data(), pieces.size() * sizeof(PushPiece));
  LH_CUDA(cudaMemcpyAsync(t.device.data(), t.host.data(), pieces.size() * sizeof(PushPiece),
                          cudaMemcpyHostToDevice, release_));
  t.uploaded.record(release_);
  t.fresh = true;
}

// Signals of two epochs must not overtake each other on two streams.
void PeerGather::follow_copies(cudaStream_t stream) {
  if (!by_copies_) return;
  pushed_.make_wait(stream);
  by_copies_ = false;
}

void PeerGather::push_by_kernel(cudaStream_t stream) {
  PieceTable& t = tables_[static_cast<size_t>(table_)];
  if (std::exchange(t.fresh, false)) t.uploaded.make_wait(stream);
  PushTask task;
  task.pieces = static_cast<const PushPiece*>(t.device.data());
  task.num_pieces = t.count;
  task.own = buffer(parity_);
  const std::span<void* const> peers = peer_buffers(parity_);
  task.peers = peers.data();
  task.num_peers = static_cast<int>(peers.size());
  task.words = flags_at_peers_.data();
  task.num_words = static_cast<int>(flags_at_peers_.size());
  task.value = epoch_;
  task.counter = word(words_->own(), 2 * kMostPeers);
  push_pieces(stream, task);
  t.used.record(stream);
}

void PeerGather::push_by_copies(cudaStream_t stream) {
  ready_.record(stream);
  ready_.make_wait(push_);
  const std::span<void* const> peers = peer_buffers(parity_);
  const void* own = buffer(parity_);
  const auto self = static_cast<size_t>(rank()), n = static_cast<size_t>(size());
  const bool early = plan_.total_send >= options_.early_signal_bytes * std::max(size() - 1, 1);
  copies_.clear();
  // Every rank begins with the next one: at each time each GPU receives from one other.
  for (size_t d = 1; d < n; ++d) {
    const size_t r = (self + d) % n;
    copies_.add_segments(peers[r], own, plan_.send[r]);
    if (!early) continue;
    copies_.enqueue(push_, options_.few_copies);
    copies_.clear();
    signals_.write(push_, {&flags_at_peers_[r], 1}, epoch_);
  }
  copies_.enqueue(push_, options_.few_copies);
  // The own flag, for kernels that wait by themselves, tells nothing: any time will do.
  if (early)
    signals_.write(push_, {&flags_at_peers_[self], 1}, epoch_);
  else
    signals_.write(push_, flags_at_peers_, epoch_);
  pushed_.record(push_);
  by_copies_ = true;
}

void PeerGather::start(int parity, cudaStream_t stream, OpLabel label) {
  begin(parity, label);
  ++epoch_;
  if (tables_[static_cast<size_t>(table_)].count < 0) {
    push_by_copies(stream);
    return;
  }
  follow_copies(stream);
  push_by_kernel(stream);
}

void PeerGather::start_signal_only(int parity, cudaStream_t stream, OpLabel label) {
  begin(parity, label);
  ++epoch_;
  follow_copies(stream);
  if (options_.signal_only_by_kernel)
    write_words(stream, flags_at_peers_.data(), size(), epoch_);
  else
    signals_.write(stream, flags_at_peers_, epoch_);
}

void PeerGather::finish(cudaStream_t stream) {
  end();
  signals_.wait(stream, own_flags_, epoch_);
}

// A kernel that holds all multiprocessors and waits must not keep those from sending whom it waits
// for: signals by kernels, copies within a GPU.
Gather::Flags PeerGather::flags() const {
  if (!options_.flags_always && (!signals_.memory_operations() || words_->gpu_shared()))
    return {nullptr, 0};
  return {word(words_->own(), 0), epoch_};
}

void PeerGather::check() {
  const cudaError_t error = cudaStreamQuery(push_);
  if (error == cudaSuccess || error == cudaErrorNotReady) return;
  fail(ExitCode::peer_lost, "gather {} between GPUs failed: {} ({})", label_.name,
       cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace longhaul::comm::cuda
