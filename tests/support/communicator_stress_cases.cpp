#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "runtime/core/check.h"
#include "tests/support/communicator_case_data.h"
#include "tests/support/communicator_cases.h"

namespace longhaul::comm::cases {

void large(Communicator& comm, int64_t bytes) {
  const int n = comm.size();
  const auto size = static_cast<size_t>(bytes);
  std::unique_ptr<uint8_t[]> send(new uint8_t[size]);
  std::unique_ptr<uint8_t[]> recv(new uint8_t[size]);
  const int to = (comm.rank() + 1) % n, from = (comm.rank() + n - 1) % n;
  auto places = [&](auto&& f) {
    for (int64_t i = 0; i < bytes; i += 4093) f(i);
    f(bytes - 1);
  };
  places([&](int64_t i) { send[static_cast<size_t>(i)] = byte_of(1, comm.rank(), to, i / 5); });
  comm.send_recv(send.get(), bytes, to, recv.get(), bytes, from, {"large"});
  places([&](int64_t i) {
    LH_CHECK(recv[static_cast<size_t>(i)] == byte_of(1, from, comm.rank(), i / 5), "byte {} of {}",
             i, bytes);
  });
}

void arrives_meanwhile(Communicator& comm, int64_t bytes) {
  const int n = comm.size();
  if (n == 1) return;
  const int to = (comm.rank() + 1) % n, from = (comm.rank() + n - 1) % n;
  const auto size = static_cast<size_t>(bytes);
  std::vector<uint8_t> send(size, static_cast<uint8_t>(comm.rank() + 1)), recv(size, 0);
  Request request =
      comm.start_send_recv(send.data(), bytes, to, recv.data(), bytes, from, {"meanwhile"});
  // Looked at from outside, as nobody should: volatile reads of the last byte.
  const volatile uint8_t* last = &recv.back();
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (*last != from + 1) {
    LH_CHECK(std::chrono::steady_clock::now() < limit, "nothing arrives while rank {} computes",
             comm.rank());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (Progress* progress = comm.progress()) progress->tick();
  }
  request.wait();
}

void storm(Communicator& comm, uint64_t seed, int exchanges) {
  Random random(seed);
  constexpr int kUnderWay = 4;
  const int n = comm.size();
  struct Slot {
    std::vector<uint8_t> send, recv;
    std::vector<int64_t> sizes;
    Request request;
    uint64_t op = 0;
  };
  std::vector<Slot> slots(kUnderWay);
  auto finish = [&](Slot& slot) {
    slot.request.wait();
    int64_t at = 0;
    for (size_t r = 0; r < slot.sizes.size(); at += slot.sizes[r++])
      expect(slot.recv.data() + at, slot.sizes[r], slot.op, static_cast<int>(r), 0, "storm");
  };
  for (int i = 0; i < exchanges; ++i) {
    Slot& slot = slots[static_cast<size_t>(i % kUnderWay)];
    finish(slot);
    slot.op = static_cast<uint64_t>(i);
    slot.sizes.clear();
    int64_t total = 0;
    for (int r = 0; r < n; ++r) {
      slot.sizes.push_back(below(random, 1000) == 0 ? below(random, 100000) : below(random, 40));
      total += slot.sizes.back();
    }
    const int64_t mine = slot.sizes[static_cast<size_t>(comm.rank())];
    slot.send.resize(static_cast<size_t>(mine));
    slot.recv.assign(static_cast<size_t>(total), 0);
    fill(slot.send.data(), mine, slot.op, comm.rank(), 0);
    random_delay(comm, random);
    slot.request = comm.start_all_gather_v(slot.send.data(), mine, slot.recv.data(), slot.sizes,
                                           {"storm", i % 7});
  }
  for (Slot& slot : slots) finish(slot);
}

}  // namespace longhaul::comm::cases
