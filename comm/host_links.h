#pragma once
// What the leaders of the hosts tell each other: the records of their hosts' ranks, at each beat.
// Only the helper threads of leaders use it, and only by calls that return at once.

#include <mpi.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "comm/observer.h"

namespace longhaul::comm {

class HostLinks {
 public:
  struct Host {
    std::vector<int> ranks;  // world ranks, the leader first
  };
  // `comm`: of the leaders alone, rank h leads hosts[h]; owned. `mutex`: guards all calls of MPI.
  HostLinks(MPI_Comm comm, std::vector<Host> hosts, int self, int world_size, std::mutex& mutex);
  ~HostLinks();
  HostLinks(const HostLinks&) = delete;
  HostLinks& operator=(const HostLinks&) = delete;

  struct News {
    int32_t stop_signal = 0;  // a rank was told to stop
    int32_t ending = 0;       // a rank has spoken, and ends the job with this exit code
  };
  // Sends this host's records and takes in what has come. False, and nothing is done, while the
  // mutex is taken.
  bool beat(const std::vector<Sighting>& local, const News& news);
  // The last that was heard, by world rank; absent before the first.
  const std::vector<Sighting>& remote() const { return remote_; }
  const News& news() const { return news_; }
  int self() const { return self_; }
  const std::vector<Host>& hosts() const { return hosts_; }
  // After all ranks have agreed to end: a last message each way. Returns false when a leader does
  // not answer in time.
  bool close(double seconds);

 private:
  struct Peer;
  void post_receive(Peer& peer);
  bool take(Peer& peer);  // true when a message had come
  bool send(Peer& peer, bool bye);

  MPI_Comm comm_;
  std::vector<Host> hosts_;
  int self_;
  std::mutex& mutex_;
  std::vector<Peer> peers_;
  std::vector<Sighting> remote_;
  std::vector<std::byte> message_;
  News news_;
};

struct HostLinks::Peer {
  size_t host = 0;
  MPI_Request receive = MPI_REQUEST_NULL;
  MPI_Request send = MPI_REQUEST_NULL;
  std::vector<std::byte> in, out;
  bool said_bye = false, heard_bye = false;
};

}  // namespace longhaul::comm
