#include "comm/thread_communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "comm/single_communicator.h"
#include "runtime/core/check.h"
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
TEST_P(ThreadCommunicator, Storm) {
  run_threads(GetParam(), [](Communicator& c) { cases::storm(c, 9, 2000); });
}
INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicator, testing::Values(1, 2, 3, 4, 5, 8));

// Runs the ranks and returns the error that came out.
Error error_of(int ranks, const std::function<void(Communicator&)>& body, double timeout = 60) {
  try {
    run_threads(ranks, body, {timeout});
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return Error(ExitCode::good, "");
}

TEST(ThreadRanks, HungRankIsNamedAndItsVictimsThrow) {
  std::atomic<int> victims{0};
  const Error e = error_of(
      3,
      [&](Communicator& c) {
        c.progress()->enter("attention", 7);
        if (c.rank() == 2) {  // long past the deadline without a tick
          while (victims.load() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(10));
          return;
        }
        try {
          c.barrier({"step", 7});
        } catch (const Error&) {
          ++victims;
          throw;
        }
      },
      0.3);
  EXPECT_EQ(e.code(), ExitCode::peer_lost);
  EXPECT_EQ(std::string(e.what()).rfind("rank 2 makes no progress", 0), 0u) << e.what();
  EXPECT_NE(std::string(e.what()).find("attention, layer 7"), std::string::npos) << e.what();
}

TEST(ThreadRanks, SlowIsNotHung) {
  run_threads(2,
              [](Communicator& c) {
                if (c.rank() == 1)
                  for (int i = 0; i < 30; ++i) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(30));
                    c.progress()->tick();
                  }
                c.barrier({"step"});
              },
              {0.4});
}

TEST(ThreadRanks, DifferentOperationsNameBothRanksAndBothOperations) {
  const Error e = error_of(2, [](Communicator& c) {
    std::vector<int64_t> sizes{8, 8};
    int64_t mine = 1, all[2];
    if (c.rank() == 0)
      c.barrier({"step", 3});
    else
      c.all_gather_v(&mine, 8, all, sizes, {"allgather kv", 4});
  });
  EXPECT_EQ(e.code(), ExitCode::internal);
  const std::string text = e.what();
  EXPECT_NE(
      text.find("rank 0 is in step, layer 3 (barrier #0) but rank 1 is in allgather kv, layer "
                "4 (all_gather #0)"),
      std::string::npos)
      << text;
}

TEST(ThreadRanks, DifferentSizesAreAnError) {
  const Error e = error_of(2, [](Communicator& c) {
    std::vector<int64_t> sizes{8, c.rank() == 0 ? 8 : 16};
    int64_t mine[2] = {1, 2}, all[4];
    c.all_gather_v(mine, sizes[static_cast<size_t>(c.rank())], all, sizes, {"kv"});
  });
  EXPECT_EQ(e.code(), ExitCode::internal);
}

TEST(ThreadRanks, RankThatEndsEarlyIsNamed) {
  const Error e = error_of(
      3,
      [](Communicator& c) {
        if (c.rank() != 1) c.barrier({"step"});
      },
      0.3);
  EXPECT_EQ(e.code(), ExitCode::peer_lost);
  EXPECT_EQ(std::string(e.what()).rfind("rank 1 did not come", 0), 0u) << e.what();
}

TEST(ThreadRanks, CrossedGroupsEndInsteadOfHanging) {
  const Error e = error_of(
      2,
      [](Communicator& c) {
        auto group = split_threads(c, 0, c.rank());
        if (c.rank() == 0) {
          group->barrier({"of the group"});
          c.barrier({"of the world"});
        } else {
          c.barrier({"of the world"});
          group->barrier({"of the group"});
        }
      },
      0.3);
  EXPECT_EQ(e.code(), ExitCode::peer_lost);
}

TEST(ThreadRanks, ErrorOfOneRankEndsAll) {
  const Error e = error_of(4, [](Communicator& c) {
    std::vector<char> data(100000);
    Request pending = c.start_broadcast(data.data(), 100000, 0, {"weights"});
    if (c.rank() == 3) fail(ExitCode::corrupt, "cannot read the file");
    pending.wait();
    c.barrier({"step"});
  });
  EXPECT_EQ(e.code(), ExitCode::corrupt);
  EXPECT_STREQ(e.what(), "rank 3: cannot read the file");
}

TEST(ThreadRanks, MoreThan2To31Bytes) {
  // Memory of the sender that nobody touches costs nothing; the receiver's is 2.1 GB.
  const int64_t bytes = (int64_t{1} << 31) + 12345;
  run_threads(2, [&](Communicator& c) {
    if (c.rank() == 0) {
      auto* data = static_cast<char*>(std::calloc(static_cast<size_t>(bytes), 1));
      ASSERT_NE(data, nullptr);
      data[0] = 1;
      data[bytes - 1] = 2;
      c.send_recv(data, bytes, 1, nullptr, 0, -1, {"huge"});
      std::free(data);
    } else {
      std::unique_ptr<char[]> data(new char[static_cast<size_t>(bytes)]);
      c.send_recv(nullptr, 0, -1, data.get(), bytes, 0, {"huge"});
      EXPECT_EQ(data[0], 1);
      EXPECT_EQ(data[static_cast<size_t>(bytes) - 1], 2);
      EXPECT_EQ(data[static_cast<size_t>(bytes) / 2], 0);
    }
    const auto traffic = c.traffic();
    EXPECT_EQ(traffic.sent_bytes + traffic.received_bytes, bytes);
  });
}

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
