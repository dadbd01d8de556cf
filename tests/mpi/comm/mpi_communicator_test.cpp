#include <gtest/gtest.h>

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
TEST(MpiCommunicator, Split) {
  auto split = [](int color, int key) { return testing_support::session().split(color, key); };
  cases::split_groups(world(), split, 8);
}

}  // namespace
}  // namespace longhaul::comm
