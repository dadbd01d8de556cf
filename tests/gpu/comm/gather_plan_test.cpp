#include "comm/cuda/gather_plan.h"

#include <gtest/gtest.h>

#include <map>

#include "runtime/core/check.h"

namespace longhaul::comm::cuda {
namespace {

GatherPlan plan_of_two() {
  GatherPlan plan;
  plan.send.resize(2);
  plan.recv.resize(2);
  return plan;
}

TEST(GatherPlan, SortsMergesAndCounts) {
  GatherPlan plan = plan_of_two();
  plan.send[1] = {{100, 50}, {0, 10}, {150, 1}, {40, 0}, {10, 5}};
  plan.recv[1] = {{1000, 24}};
  const ReadyPlan ready = make_ready(plan, 0, 2);
  ASSERT_EQ(ready.send[1].size(), 2u);
  EXPECT_EQ(ready.send[1][0].offset, 0);
  EXPECT_EQ(ready.send[1][0].bytes, 15);
  EXPECT_EQ(ready.send[1][1].offset, 100);
  EXPECT_EQ(ready.send[1][1].bytes, 51);
  EXPECT_EQ(ready.total_send, 66);
  EXPECT_EQ(ready.total_recv, 24);
  EXPECT_EQ(ready.end, 1024);
  EXPECT_EQ(packed_offsets(ready.send_bytes), (std::vector<int64_t>{0, 0, 66}));
}

TEST(GatherPlan, RefusesWhatCannotBe) {
  GatherPlan overlap = plan_of_two();
  overlap.send[1] = {{0, 10}, {9, 5}};
  EXPECT_THROW(make_ready(overlap, 0, 2), Error);
  GatherPlan to_itself = plan_of_two();
  to_itself.send[0] = {{0, 10}};
  EXPECT_THROW(make_ready(to_itself, 0, 2), Error);
  GatherPlan negative = plan_of_two();
  negative.recv[1] = {{-4, 10}};
  EXPECT_THROW(make_ready(negative, 0, 2), Error);
  EXPECT_THROW(make_ready(plan_of_two(), 0, 3), Error);
}

TEST(GatherPlan, PiecesCoverEverySegmentOnce) {
  GatherPlan plan;
  plan.send.resize(3);
  plan.recv.resize(3);
  plan.send[0] = {{0, 40000}, {(int64_t{1} << 33) + 8, 17}};
  plan.send[2] = {{50000, 16384}};
  const auto pieces = cut_pieces(make_ready(plan, 1, 3), 1, 16384);
  std::map<std::pair<int32_t, int64_t>, int32_t> found;
  for (const PushPiece& p : pieces) {
    EXPECT_TRUE(found.emplace(std::pair(p.peer, p.offset), p.bytes).second);
    EXPECT_LE(p.bytes, 16384);
  }
  const std::map<std::pair<int32_t, int64_t>, int32_t> want{{{0, 0}, 16384},
                                                            {{0, 16384}, 16384},
                                                            {{0, 32768}, 7232},
                                                            {{0, (int64_t{1} << 33) + 8}, 17},
                                                            {{2, 50000}, 16384}};
  EXPECT_EQ(found, want);
  EXPECT_EQ(pieces[0].peer, 2);  // the next rank first
  EXPECT_EQ(pieces[1].peer, 0);
}

}  // namespace
}  // namespace longhaul::comm::cuda
