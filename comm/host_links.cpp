#include "comm/host_links.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "comm/mpi_transport.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

constexpr int kTag = 1;

struct Head {
  HostLinks::News news;
  int32_t bye = 0;
  int32_t unused = 0;
};

size_t message_bytes(const HostLinks::Host& host) {
  return sizeof(Head) + host.ranks.size() * sizeof(Sighting);
}

}  // namespace

HostLinks::HostLinks(MPI_Comm comm, std::vector<Host> hosts, int self, int world_size,
                     std::mutex& mutex)
    : comm_(comm), hosts_(std::move(hosts)), self_(self), mutex_(mutex) {
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  remote_.resize(static_cast<size_t>(world_size));
  message_.resize(message_bytes(hosts_[static_cast<size_t>(self)]));
  std::lock_guard lock(mutex_);
  for (size_t h = 0; h < hosts_.size(); ++h) {
    if (static_cast<int>(h) == self_) continue;
    Peer peer;
    peer.host = h;
    peer.in.resize(message_bytes(hosts_[h]));
    peers_.push_back(std::move(peer));
    post_receive(peers_.back());
  }
}

HostLinks::~HostLinks() {
  // Left open only after an error, when the job is about to end.
  std::lock_guard lock(mutex_);
  for (Peer& peer : peers_) {
    if (peer.receive != MPI_REQUEST_NULL) MPI_Cancel(&peer.receive);
    for (MPI_Request* request : {&peer.receive, &peer.send})
      if (*request != MPI_REQUEST_NULL) MPI_Request_free(request);
  }
}

void HostLinks::post_receive(Peer& peer) {
  check_mpi(MPI_Irecv(peer.in.data(), static_cast<int>(peer.in.size()), MPI_BYTE,
                      static_cast<int>(peer.host), kTag, comm_, &peer.receive),
            "MPI_Irecv");
}

bool HostLinks::take(Peer& peer) {
  if (peer.heard_bye) return false;
  int done = 0;
  check_mpi(MPI_Test(&peer.receive, &done, MPI_STATUS_IGNORE), "MPI_Test");
  if (!done) return false;
  Head head;
  std::memcpy(&head, peer.in.data(), sizeof head);
  if (head.news.stop_signal != 0) news_.stop_signal = head.news.stop_signal;
  if (head.news.ending != 0) news_.ending = head.news.ending;
  for (size_t i = 0; i < hosts_[peer.host].ranks.size(); ++i) {
    Sighting sighting;
    std::memcpy(static_cast<void*>(&sighting), peer.in.data() + sizeof head + i * sizeof(Sighting),
                sizeof(Sighting));
    const auto rank = static_cast<size_t>(sighting.body.world_rank);
    if (sighting.body.state != RankState::absent && rank < remote_.size()) remote_[rank] = sighting;
  }
  peer.heard_bye = head.bye != 0;
  if (!peer.heard_bye) post_receive(peer);
  return true;
}

// Skips the beat when the last message is still on its way.
bool HostLinks::send(Peer& peer, bool bye) {
  if (peer.said_bye) return true;
  if (peer.send != MPI_REQUEST_NULL) {
    int done = 0;
    check_mpi(MPI_Test(&peer.send, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (!done) return false;
  }
  peer.out = message_;
  Head head;
  std::memcpy(&head, peer.out.data(), sizeof head);
  head.bye = bye;
  std::memcpy(peer.out.data(), &head, sizeof head);
  check_mpi(MPI_Isend(peer.out.data(), static_cast<int>(peer.out.size()), MPI_BYTE,
                      static_cast<int>(peer.host), kTag, comm_, &peer.send),
            "MPI_Isend");
  peer.said_bye = bye;
  return true;
}

bool HostLinks::beat(const std::vector<Sighting>& local, const News& news) {
  LH_CHECK(sizeof(Head) + local.size() * sizeof(Sighting) == message_.size(), "{} ranks",
           local.size());
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  Head head;
  head.news = news;
  std::memcpy(message_.data(), &head, sizeof head);
  std::memcpy(message_.data() + sizeof head, local.data(), local.size() * sizeof(Sighting));
  for (Peer& peer : peers_) {
    while (take(peer)) continue;
    send(peer, false);
  }
  return true;
}

bool HostLinks::close(double seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    bool open = false;
    {
      std::lock_guard lock(mutex_);
      for (Peer& peer : peers_) {
        while (take(peer)) continue;
        bool sent = send(peer, true);
        if (sent && peer.send != MPI_REQUEST_NULL) {
          int done = 0;
          check_mpi(MPI_Test(&peer.send, &done, MPI_STATUS_IGNORE), "MPI_Test");
          sent = done != 0;
        }
        open |= !sent || !peer.heard_bye;
      }
    }
    if (!open) {
      check_mpi(MPI_Comm_free(&comm_), "MPI_Comm_free");
      return true;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return false;
}

}  // namespace longhaul::comm
