#include "comm/thread_communicator.h"

#include <gtest/gtest.h>

#include "comm/single_communicator.h"
#include "tests/support/communicator_cases.h"

namespace longhaul::comm {
namespace {

class ThreadCommunicator : public testing::TestWithParam<int> {};

TEST_P(ThreadCommunicator, AllGather) {
  run_threads(GetParam(), [](Communicator& c) { cases::all_gather_random(c, 1, 200); });
}
TEST_P(ThreadCommunicator, AllToAll) {
  run_threads(GetParam(), [](Communicator& c) { cases::all_to_all_random(c, 2, 200); });
}
TEST_P(ThreadCommunicator, SendRecv) {
  run_threads(GetParam(), [](Communicator& c) { cases::send_recv_shifts(c, 3, 200); });
}
TEST_P(ThreadCommunicator, AllReduce) {
  run_threads(GetParam(), [](Communicator& c) { cases::all_reduce_exact(c, 4, 40); });
}
TEST_P(ThreadCommunicator, Broadcast) {
  run_threads(GetParam(), [](Communicator& c) { cases::broadcast_random(c, 5, 200); });
}
TEST_P(ThreadCommunicator, Barrier) {
  run_threads(GetParam(), [](Communicator& c) { cases::barrier_holds(c, 6, 100); });
}
TEST_P(ThreadCommunicator, Overlapping) {
  run_threads(GetParam(), [](Communicator& c) { cases::overlapping(c, 7, 15); });
}
TEST_P(ThreadCommunicator, Traffic) {
  run_threads(GetParam(), [](Communicator& c) { cases::traffic_counts(c); });
}
TEST_P(ThreadCommunicator, Split) {
  run_threads(GetParam(), [](Communicator& c) {
    cases::split_groups(
        c, [&](int color, int key) { return split_threads(c, color, key); }, 8);
  });
}
INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicator, testing::Values(1, 2, 3, 4, 5, 8));

TEST(SingleCommunicator, AllCases) {
  auto c = make_single_communicator();
  cases::all_gather_random(*c, 1, 50);
  cases::all_to_all_random(*c, 2, 50);
  cases::send_recv_shifts(*c, 3, 50);
  cases::all_reduce_exact(*c, 4, 20);
  cases::broadcast_random(*c, 5, 50);
  cases::barrier_holds(*c, 6, 10);
  cases::overlapping(*c, 7, 5);
  cases::traffic_counts(*c);
}

}  // namespace
}  // namespace longhaul::comm
