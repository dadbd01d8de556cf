#include "tests/support/communicator_cases.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "runtime/core/check.h"
#include "tests/support/communicator_case_data.h"

namespace longhaul::comm::cases {
namespace {

// Mostly small, often zero, now and then past what goes inline and past the one-round limits.
int64_t random_size(Random& random) {
  switch (below(random, 8)) {
    case 0:
    case 1:
      return 0;
    case 2:
      return below(random, 200000);
    case 3:
      return below(random, 10000);
    default:
      return below(random, 100);
  }
}

struct Gather {
  uint64_t op;
  std::vector<int64_t> sizes;
  Bytes send, recv;
  Request start(Communicator& comm, Random& random, uint64_t number) {
    op = number;
    for (int r = 0; r < comm.size(); ++r) sizes.push_back(random_size(random));
    const auto self = static_cast<size_t>(comm.rank());
    send.resize(static_cast<size_t>(sizes[self]));
    fill(send.data(), sizes[self], op, comm.rank(), 0);
    recv.resize(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})));
    return comm.start_all_gather_v(send.data(), sizes[self], recv.data(), sizes, {"gather"});
  }
  void check() const {
    int64_t at = 0;
    for (size_t r = 0; r < sizes.size(); at += sizes[r++])
      expect(recv.data() + at, sizes[r], op, static_cast<int>(r), 0, "gather");
  }
};

struct AllToAll {
  uint64_t op;
  int self;
  std::vector<int64_t> to, from;
  Bytes send, recv;
  Request start(Communicator& comm, Random& random, uint64_t number) {
    op = number;
    self = comm.rank();
    for (int a = 0; a < comm.size(); ++a)
      for (int b = 0; b < comm.size(); ++b) {
        const int64_t bytes = random_size(random);
        if (a == self) to.push_back(bytes);
        if (b == self) from.push_back(bytes);
      }
    for (int b = 0; b < comm.size(); ++b) {
      const auto at = static_cast<int64_t>(send.size());
      const int64_t bytes = to[static_cast<size_t>(b)];
      send.resize(static_cast<size_t>(at + bytes));
      fill(send.data() + at, bytes, op, self, b);
    }
    recv.resize(static_cast<size_t>(std::accumulate(from.begin(), from.end(), int64_t{0})));
    return comm.start_all_to_all_v(send.data(), to, recv.data(), from, {"all to all"});
  }
  void check() const {
    int64_t at = 0;
    for (size_t r = 0; r < from.size(); at += from[r++])
      expect(recv.data() + at, from[r], op, static_cast<int>(r), self, "all to all");
  }
};

struct Shift {
  uint64_t op;
  int self, to, from;
  Bytes send, recv;
  Request start(Communicator& comm, Random& random, uint64_t number) {
    op = number;
    self = comm.rank();
    const int n = comm.size();
    const int by = static_cast<int>(below(random, n));
    // Half of the time a chain without the wrap: the ends have only one side.
    const bool ring = below(random, 2) == 0 || by == 0;
    to = self + by < n || ring ? (self + by) % n : -1;
    from = self - by >= 0 || ring ? (self - by + n) % n : -1;
    const int64_t bytes = random_size(random);
    if (to >= 0) send.resize(static_cast<size_t>(bytes));
    if (from >= 0) recv.resize(static_cast<size_t>(bytes));
    fill(send.data(), static_cast<int64_t>(send.size()), op, self, to);
    return comm.start_send_recv(send.data(), static_cast<int64_t>(send.size()), to, recv.data(),
                                static_cast<int64_t>(recv.size()), from, {"shift", 7});
  }
  void check() const {
    expect(recv.data(), static_cast<int64_t>(recv.size()), op, from, self, "shift");
  }
};

struct Sum {
  int size;
  std::vector<int64_t> data;
  Request start(Communicator& comm, Random& random, uint64_t) {
    size = comm.size();
    const int64_t count = below(random, 4) == 0 ? below(random, 40000) : below(random, 50);
    for (int64_t i = 0; i < count; ++i) data.push_back(i * i + comm.rank() * (i + 1));
    return comm.start_all_reduce(data.data(), count, DType::i64, ReduceOp::sum, {"sum"});
  }
  void check() const {
    for (size_t k = 0; k < data.size(); ++k) {
      const auto i = static_cast<int64_t>(k);
      const int64_t want = i * i * size + (i + 1) * (int64_t{size} * (size - 1) / 2);
      LH_CHECK(data[k] == want, "sum of {}: {} for {}", i, data[k], want);
    }
  }
};

struct Broadcast {
  uint64_t op;
  int root;
  Bytes data;
  Request start(Communicator& comm, Random& random, uint64_t number) {
    op = number;
    root = static_cast<int>(below(random, comm.size()));
    data.resize(static_cast<size_t>(random_size(random)));
    if (comm.rank() == root) fill(data.data(), static_cast<int64_t>(data.size()), op, root, 0);
    return comm.start_broadcast(data.data(), static_cast<int64_t>(data.size()), root,
                                {"broadcast", 1});
  }
  void check() const {
    expect(data.data(), static_cast<int64_t>(data.size()), op, root, 0, "broadcast");
  }
};

template <class Case>
void repeat(Communicator& comm, uint64_t seed, int repeats) {
  Random random(seed);
  for (int i = 0; i < repeats; ++i) {
    random_delay(comm, random);
    Case one;
    one.start(comm, random, seed * 100000 + static_cast<uint64_t>(i)).wait();
    one.check();
  }
}

}  // namespace

void all_gather_random(Communicator& comm, uint64_t seed, int repeats) {
  repeat<Gather>(comm, seed, repeats);
}
void all_to_all_random(Communicator& comm, uint64_t seed, int repeats) {
  repeat<AllToAll>(comm, seed, repeats);
}
void send_recv_shifts(Communicator& comm, uint64_t seed, int repeats) {
  repeat<Shift>(comm, seed, repeats);
}
void broadcast_random(Communicator& comm, uint64_t seed, int repeats) {
  repeat<Broadcast>(comm, seed, repeats);
}

void all_reduce_exact(Communicator& comm, uint64_t seed, int repeats) {
  repeat<Sum>(comm, seed, repeats);
  Random random(seed);
  const int n = comm.size();
  for (int i = 0; i < repeats; ++i) {
    const int64_t count = below(random, 4) == 0 ? below(random, 40000) : below(random, 50);
    const auto size = static_cast<size_t>(count);
    std::vector<int32_t> low(size), high(size);
    std::vector<float> sums(size);
    std::vector<double> maxima(size);
    Random own(seed + static_cast<uint64_t>(i) * 1000 + static_cast<uint64_t>(comm.rank()));
    for (size_t k = 0; k < size; ++k) {
      low[k] = static_cast<int32_t>(k) - comm.rank();
      high[k] = static_cast<int32_t>(k) + comm.rank();
      sums[k] = static_cast<float>(own() % 1000003) * 1.1e-3f;
      maxima[k] = static_cast<double>(comm.rank()) * (k % 2 == 0 ? 1 : -1);
    }
    comm.all_reduce(low.data(), count, DType::i32, ReduceOp::min, {"min"});
    comm.all_reduce(high.data(), count, DType::i32, ReduceOp::max, {"max"});
    comm.all_reduce(sums.data(), count, DType::f32, ReduceOp::sum, {"float sum"});
    comm.all_reduce(maxima.data(), count, DType::f64, ReduceOp::max, {"double max"});
    for (size_t k = 0; k < size; ++k) {
      LH_CHECK(low[k] == static_cast<int32_t>(k) - (n - 1), "{}", low[k]);
      LH_CHECK(high[k] == static_cast<int32_t>(k) + (n - 1), "{}", high[k]);
      LH_CHECK(maxima[k] == (k % 2 == 0 ? n - 1.0 : 0.0), "{}", maxima[k]);
    }
    // The same bits everywhere: rank 0's against each other's, and in rank order.
    std::vector<float> all(size * static_cast<size_t>(n));
    const std::vector<int64_t> bytes(static_cast<size_t>(n), count * 4);
    comm.all_gather_v(sums.data(), count * 4, all.data(), bytes, {"float sums"});
    for (size_t r = 1; r < static_cast<size_t>(n); ++r)
      LH_CHECK(count == 0 || std::memcmp(all.data(), all.data() + r * size, size * 4) == 0,
               "float sums of ranks 0 and {} differ", r);
    for (size_t k = 0; k < std::min<size_t>(size, 20); ++k) {
      float want = 0;
      for (int r = 0; r < n; ++r) {
        Random theirs(seed + static_cast<uint64_t>(i) * 1000 + static_cast<uint64_t>(r));
        theirs.discard(k);
        const float part = static_cast<float>(theirs() % 1000003) * 1.1e-3f;
        want = r == 0 ? part : want + part;
      }
      LH_CHECK(sums[k] == want, "float sum {}: {} for {}", k, sums[k], want);
    }
  }
}

void barrier_holds(Communicator& comm, uint64_t seed, int repeats) {
  // Time is shared by all ranks of a host: the latest arrival is before the earliest departure.
  Random random(seed);
  for (int i = 0; i < repeats; ++i) {
    random_delay(comm, random);
    auto now = [] {
      return static_cast<int64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    };
    int64_t arrived = now();
    comm.barrier({"barrier"});
    int64_t left = now();
    comm.all_reduce(&arrived, 1, DType::i64, ReduceOp::max, {"latest arrival"});
    comm.all_reduce(&left, 1, DType::i64, ReduceOp::min, {"earliest departure"});
    LH_CHECK(left >= arrived, "a rank left a barrier {} ns before the last came", arrived - left);
  }
}

void overlapping(Communicator& comm, uint64_t seed, int repeats) {
  Random random(seed);
  for (int i = 0; i < repeats; ++i) {
    constexpr size_t kEach = 4;
    std::vector<Gather> gathers(kEach);
    std::vector<AllToAll> exchanges(kEach);
    std::vector<Shift> shifts(kEach);
    std::vector<Sum> sums(kEach);
    std::vector<Broadcast> broadcasts(kEach);
    std::vector<Request> requests;
    const uint64_t op = seed * 100000 + static_cast<uint64_t>(i) * 100;
    for (size_t k = 0; k < kEach; ++k) {
      random_delay(comm, random);
      requests.push_back(gathers[k].start(comm, random, op + k));
      requests.push_back(exchanges[k].start(comm, random, op + 10 + k));
      requests.push_back(comm.start_barrier({"barrier under way"}));
      requests.push_back(shifts[k].start(comm, random, op + 20 + k));
      requests.push_back(sums[k].start(comm, random, op + 30 + k));
      requests.push_back(broadcasts[k].start(comm, random, op + 40 + k));
    }
    std::vector<size_t> order(requests.size());
    std::iota(order.begin(), order.end(), size_t{0});
    Random own(random() + static_cast<uint64_t>(comm.rank()));
    std::shuffle(order.begin(), order.end(), own);
    for (size_t k : order) {
      if (below(own, 3) == 0) requests[k].test();
      requests[k].wait();
    }
    for (size_t k = 0; k < kEach; ++k) {
      gathers[k].check();
      exchanges[k].check();
      shifts[k].check();
      sums[k].check();
      broadcasts[k].check();
    }
  }
}

void traffic_counts(Communicator& comm) {
  const int64_t n = comm.size();
  const auto before = comm.traffic();
  std::vector<uint8_t> send(1000), recv(static_cast<size_t>(1000 * n));
  const std::vector<int64_t> sizes(static_cast<size_t>(n), 1000);
  comm.all_gather_v(send.data(), 1000, recv.data(), sizes, {"counted"});
  const auto after = comm.traffic();
  LH_CHECK(after.sent_bytes - before.sent_bytes == 1000 * (n - 1), "{}", after.sent_bytes);
  LH_CHECK(after.received_bytes - before.received_bytes == 1000 * (n - 1), "{}",
           after.received_bytes);
}

void split_groups(Communicator& world, const Split& split, uint64_t seed) {
  const int color = world.rank() % 2;
  auto group = split(color, -world.rank());
  const int size = (world.size() + 1 - color) / 2;
  LH_CHECK(group->size() == size, "{} ranks of {}", group->size(), size);
  LH_CHECK(group->rank() == size - 1 - world.rank() / 2, "rank {} in the group", group->rank());
  auto first_only = split(world.rank() == 0 ? 3 : -1, 0);
  LH_CHECK((first_only != nullptr) == (world.rank() == 0), "color -1");
  Random random(seed), group_random(seed + 17 + static_cast<uint64_t>(color));
  for (int i = 0; i < 20; ++i) {
    Gather a, c;
    Sum b;
    Request ra = a.start(*group, group_random, static_cast<uint64_t>(i));
    Request rb = b.start(world, random, 0);
    Request rc = c.start(*group, group_random, static_cast<uint64_t>(i) + 50);
    rc.wait();
    rb.wait();
    ra.wait();
    a.check();
    b.check();
    c.check();
  }
}

}  // namespace longhaul::comm::cases
