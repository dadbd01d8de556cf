#include "comm/mpi_transport.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "comm/mismatch.h"
#include "runtime/core/check.h"

namespace longhaul::comm {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw Error(ExitCode::internal,
              fmt::format("{}: {}", call,
                          length ? std::string(text, static_cast<size_t>(length))
                                 : fmt::format("MPI error {}", code)),
              __FILE__, __LINE__);
}

class MpiExchange final : public Exchange {
 public:
  MpiExchange(MpiTransport& transport, const Fingerprint& fingerprint, const Round& round);
  ~MpiExchange() override;
  bool advance() override;
  int missing() const override;
  uint64_t pieces() const override { return pieces_; }

 private:
  // One direction with one peer.
  struct Lane {
    int peer = -1;
    bool is_send = false;
    std::byte* data = nullptr;
    int64_t bytes = 0;
    int64_t posted = 0;         // bytes of chunks handed to MPI
    int open = 0;               // requests under way
    bool heard = false;         // receives: the fingerprint has come
    std::byte* head = nullptr;  // fingerprint and payload of a small message
  };
  struct Slot {
    size_t lane;
    int64_t bytes;  // of a chunk; -1: the head
    std::byte* data;
  };

  static constexpr int kChunksUnderWay = 4;  // per lane

  bool is_inline(int64_t bytes) const { return bytes <= transport_.options_.inline_bytes; }
  void post_head(size_t lane);
  void post_chunks(size_t lane);
  void add_request(MPI_Request request, const Slot& slot);
  void complete(const Slot& slot, const MPI_Status& status);
  void take_head(Lane& lane);

  MpiTransport& transport_;
  Fingerprint fingerprint_;
  int head_tag_, data_tag_;
  std::vector<Lane> lanes_;
  std::vector<MPI_Request> requests_;
  std::vector<Slot> slots_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::unique_ptr<std::byte[]> heads_;
  uint64_t pieces_ = 0;
};

MpiExchange::MpiExchange(MpiTransport& transport, const Fingerprint& fingerprint,
                         const Round& round)
    : transport_(transport), fingerprint_(fingerprint) {
  head_tag_ = static_cast<int>(2 * (fingerprint.sequence % transport.num_tags_));
  data_tag_ = head_tag_ + 1;
  lanes_.reserve(round.sends.size() + round.receives.size());
  for (const ReceivePart& r : round.receives)
    lanes_.push_back({r.peer, false, static_cast<std::byte*>(r.data), r.bytes});
  for (const SendPart& s : round.sends)  // MPI takes pointers to non-const but does not write
    lanes_.push_back({s.peer, true, static_cast<std::byte*>(const_cast<void*>(s.data)), s.bytes});
  // A receiver takes any head, so that it can tell what came when it is not what it expects.
  const size_t capacity =
      sizeof(Fingerprint) + static_cast<size_t>(transport.options_.inline_bytes);
  heads_.reset(new std::byte[capacity * lanes_.size()]);
  for (size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].head = heads_.get() + capacity * i;
    post_head(i);
    post_chunks(i);
  }
}

MpiExchange::~MpiExchange() {
  // Only after an error: the job is about to end, and nothing more may be written to the buffers.
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (!lanes_[slots_[i].lane].is_send) MPI_Cancel(&requests_[i]);
    MPI_Request_free(&requests_[i]);
  }
  if (std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& l) { return l.open > 0; }))
    (void)heads_.release();  // MPI may still read or write them
}

void MpiExchange::add_request(MPI_Request request, const Slot& slot) {
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) continue;
    requests_[i] = request;
    slots_[i] = slot;
    return;
  }
  requests_.push_back(request);
  slots_.push_back(slot);
}

void MpiExchange::post_head(size_t index) {
  Lane& lane = lanes_[index];
  MPI_Request request;
  if (lane.is_send) {
    Fingerprint head = fingerprint_;
    head.bytes = lane.bytes;
    std::memcpy(lane.head, &head, sizeof head);
    int64_t bytes = sizeof head;
    if (is_inline(lane.bytes) && lane.bytes > 0) {
      std::memcpy(lane.head + bytes, lane.data, static_cast<size_t>(lane.bytes));
      bytes += lane.bytes;
    }
    check_mpi(MPI_Isend(lane.head, static_cast<int>(bytes), MPI_BYTE, lane.peer, head_tag_,
                        transport_.comm_, &request),
              "MPI_Isend");
  } else {
    const auto capacity =
        static_cast<int64_t>(sizeof(Fingerprint)) + transport_.options_.inline_bytes;
    check_mpi(MPI_Irecv(lane.head, static_cast<int>(capacity), MPI_BYTE, lane.peer, head_tag_,
                        transport_.comm_, &request),
              "MPI_Irecv");
  }
  ++lane.open;
  add_request(request, {index, -1, nullptr});
}

void MpiExchange::post_chunks(size_t index) {
  Lane& lane = lanes_[index];
  if (is_inline(lane.bytes)) return;
  while (lane.posted < lane.bytes && lane.open < kChunksUnderWay + 1) {
    const int64_t bytes = std::min(lane.bytes - lane.posted, transport_.options_.chunk_bytes);
    std::byte* data = lane.data + lane.posted;
    MPI_Request request;
    if (lane.is_send)
      check_mpi(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, lane.peer, data_tag_,
                          transport_.comm_, &request),
                "MPI_Isend");
    else
      check_mpi(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, lane.peer, data_tag_,
                          transport_.comm_, &request),
                "MPI_Irecv");
    lane.posted += bytes;
    ++lane.open;
    add_request(request, {index, bytes, data});
  }
}

void MpiExchange::take_head(Lane& lane) {
  Fingerprint theirs, ours = fingerprint_;
  std::memcpy(&theirs, lane.head, sizeof theirs);
  ours.bytes = lane.bytes;
  check_agreement(ours, theirs, transport_.watch_);
  lane.heard = true;
  if (is_inline(lane.bytes) && lane.bytes > 0)
    std::memcpy(lane.data, lane.head + sizeof theirs, static_cast<size_t>(lane.bytes));
}

void MpiExchange::complete(const Slot& slot, const MPI_Status& status) {
  Lane& lane = lanes_[slot.lane];
  --lane.open;
  ++pieces_;
  if (slot.bytes < 0) {
    if (!lane.is_send) take_head(lane);
    return;
  }
  if (lane.is_send) return;
  int count = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
  LH_CHECK(count == slot.bytes, "{}: a part of {} bytes where {} were due from rank {}",
           fingerprint_.to_string(), count, slot.bytes, lane.peer);
}

bool MpiExchange::advance() {
  if (requests_.empty()) return true;
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int done = 0;
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done,
                                indices_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) check_mpi(code, "MPI_Testsome");
  if (done == MPI_UNDEFINED) return true;  // nothing is under way
  // Heads first: they explain what may be wrong with the chunks.
  for (const bool heads : {true, false}) {
    for (int i = 0; i < done; ++i) {
      const auto at = static_cast<size_t>(i);
      const Slot slot = slots_[static_cast<size_t>(indices_[at])];
      if ((slot.bytes < 0) != heads) continue;
      if (code == MPI_ERR_IN_STATUS) check_mpi(statuses_[at].MPI_ERROR, "a message");
      complete(slot, statuses_[at]);
    }
  }
  bool open = false;
  for (size_t i = 0; i < lanes_.size(); ++i) {
    post_chunks(i);
    open |= lanes_[i].open > 0;
  }
  return !open;
}

int MpiExchange::missing() const {
  for (const Lane& lane : lanes_)
    if (!lane.is_send && !lane.heard) return lane.peer;
  for (const Lane& lane : lanes_)
    if (lane.open > 0) return lane.peer;
  return -1;
}

MpiTransport::MpiTransport(MPI_Comm comm, RankWatch& watch, const Options& options)
    : comm_(comm), watch_(watch), options_(options) {
  LH_CHECK(options.chunk_bytes > 0 && options.chunk_bytes <= (int64_t{1} << 30) &&
               options.inline_bytes >= 0 && options.inline_bytes <= (1 << 20),
           "chunks of {} bytes, {} inline", options.chunk_bytes, options.inline_bytes);
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int* upper = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &upper, &found), "MPI_Comm_get_attr");
  LH_CHECK(found && *upper >= 32767, "MPI_TAG_UB");
  num_tags_ = (static_cast<uint64_t>(*upper) + 1) / 2;
}

MpiTransport::~MpiTransport() {
  // Freeing is collective: not while this rank alone is on its way out.
  if (comm_ != MPI_COMM_WORLD && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

std::unique_ptr<Exchange> MpiTransport::post(const Fingerprint& fingerprint, const Round& round) {
  return std::make_unique<MpiExchange>(*this, fingerprint, round);
}

void MpiTransport::pause(int turn) {
  // First spin, then give way, then sleep: a short wait costs little time and a long one no core,
  // which the slower rank may need. (A sleep of 50 us takes about 100 us with the usual timer
  // slack.)
  const int spin = options_.crowded ? 0 : 500;
  const int yield = options_.crowded ? 20 : 3000;
  if (turn < spin) return;
  if (turn < yield) {
    sched_yield();
    return;
  }
  const int sleeps = std::min((turn - yield) / 20, 8);
  std::this_thread::sleep_for(std::chrono::microseconds(50 + 50 * sleeps));
}

}  // namespace longhaul::comm
