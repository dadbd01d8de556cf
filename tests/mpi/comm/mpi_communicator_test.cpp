#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "tests/support/communicator_cases.h"
#include "tests/support/mpi_main.h"

namespace longhaul::comm {
namespace {

Communicator& world() {
  return testing_support::session().world();
}

TEST(MpiCommunicator, AllGather) {
  cases::all_gather_random(world(), 1, 200);
}
TEST(MpiCommunicator, AllToAll) {
  cases::all_to_all_random(world(), 2, 200);
}
TEST(MpiCommunicator, SendRecv) {
  cases::send_recv_shifts(world(), 3, 300);
}
TEST(MpiCommunicator, AllReduce) {
  cases::all_reduce_exact(world(), 4, 60);
}
TEST(MpiCommunicator, Broadcast) {
  cases::broadcast_random(world(), 5, 200);
}
TEST(MpiCommunicator, Barrier) {
  cases::barrier_holds(world(), 6, 200);
}
TEST(MpiCommunicator, Overlapping) {
  cases::overlapping(world(), 7, 15);
}
TEST(MpiCommunicator, Traffic) {
  cases::traffic_counts(world());
}
TEST(MpiCommunicator, MessageOfManyChunks) {
  cases::large(world(), (int64_t{90} << 20) + 12345);
}
TEST(MpiCommunicator, ArrivesMeanwhile) {
  cases::arrives_meanwhile(world(), 100);
  cases::arrives_meanwhile(world(), int64_t{40} << 20);
}
TEST(MpiCommunicator, Split) {
  auto split = [](int color, int key) { return testing_support::session().split(color, key); };
  cases::split_groups(world(), split, 8);
}

// Exchanges without a pause: none may get stuck.
TEST(MpiCommunicator, TenThousandExchanges) {
  cases::storm(world(), 9, 10000);
}

TEST(MpiCommunicator, MoreThan2To31Bytes) {
  if (world().size() != 2) return;
  const int64_t bytes = (int64_t{1} << 31) + 12345;
  if (world().rank() == 0) {
    // Pages that nobody writes take no memory.
    auto* data = static_cast<char*>(std::calloc(static_cast<size_t>(bytes), 1));
    ASSERT_NE(data, nullptr);
    data[0] = 1;
    data[bytes - 1] = 2;
    world().send_recv(data, bytes, 1, nullptr, 0, -1, {"huge"});
    std::free(data);
  } else {
    std::unique_ptr<char[]> data(new char[static_cast<size_t>(bytes)]);
    world().send_recv(nullptr, 0, -1, data.get(), bytes, 0, {"huge"});
    EXPECT_EQ(data[0], 1);
    EXPECT_EQ(data[static_cast<size_t>(bytes) - 1], 2);
    EXPECT_EQ(data[static_cast<size_t>(bytes) / 2], 0);
  }
}

}  // namespace
}  // namespace longhaul::comm
