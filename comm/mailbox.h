#pragma once
// Messages between threads of one process: a send and a receive meet here, and whoever comes second
// copies. Nothing is buffered, so a send completes only with its receive, as a large MPI one does.

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "comm/operation.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

class Mailbox {
 public:
  // All the messages of one round of one rank; in the mailbox until all are done.
  class Bundle;

  struct Item {
    Fingerprint fingerprint;
    void* data = nullptr;  // of a receive
    const void* source = nullptr;
    int peer = -1;  // in the communicator
    Bundle* owner = nullptr;
    bool is_send = false;
    bool done = false;
    bool copying = false;
  };

  class Bundle final : public Exchange {
   public:
    Bundle(Mailbox& box, RankWatch& watch) : box_(box), watch_(watch) {}
    ~Bundle() override;
    bool advance() override;
    int missing() const override;
    uint64_t pieces() const override;

   private:
    friend class Mailbox;
    Mailbox& box_;
    RankWatch& watch_;
    std::vector<Item> items_;
    size_t num_done_ = 0;
    std::exception_ptr error_;
  };

  // peers: world ranks by rank of the communicator.
  std::unique_ptr<Exchange> post(const Fingerprint& fingerprint, const Round& round,
                                 const std::vector<int>& world_ranks, RankWatch& watch);
  void wait_for_news(std::chrono::microseconds limit);
  void wake_all();

 private:
  // group, sequence, round, from, to (world ranks)
  using Key = std::tuple<uint64_t, uint64_t, uint16_t, int, int>;
  static Key key_of(const Item& item, const std::vector<int>& world_ranks);
  void meet(Item& item, const Key& key, std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable news_;
  std::map<Key, Item*> waiting_;
};

}  // namespace longhaul::comm
