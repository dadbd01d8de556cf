#include "runtime/layout/process_grid.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/core/check.h"

namespace longhaul::layout {
namespace {

TEST(ProcessGrid, RanksAreTheInverseOfTheFormula) {
  for (int dp : {1, 2})
    for (int cp : {1, 3})
      for (int ulysses : {1, 2, 5})
        for (int tp : {1, 4}) {
          const int world = dp * cp * ulysses * tp;
          for (int rank = 0; rank < world; ++rank) {
            const ProcessGrid g = make_process_grid(world, rank, dp, cp, ulysses, tp);
            EXPECT_EQ(
                ((g.dp_rank() * cp + g.cp_rank()) * ulysses + g.ulysses_rank()) * tp + g.tp_rank(),
                rank);
            EXPECT_EQ(g.world_size(), world);
          }
        }
}

TEST(ProcessGrid, CpTakesWhatTheOthersLeave) {
  EXPECT_EQ(make_process_grid(12, 0, 0, 0, 3, 2).cp, 2);
  EXPECT_EQ(make_process_grid(8, 7, -1, -1, -1, -1).cp, 8);
  EXPECT_EQ(make_process_grid(1, 0, 0, 0, 0, 0).cp, 1);
}

void expect_refused(int world, int dp, int cp, int ulysses, int tp, const char* part) {
  try {
    make_process_grid(world, 0, dp, cp, ulysses, tp);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(ProcessGrid, DegreesMustMultiplyToTheRanks) {
  expect_refused(4, 0, 3, 0, 0, "is 3 ranks, but 4 were started");
  expect_refused(4, 0, 0, 3, 0, "is 3, which does not divide the 4 ranks");
  expect_refused(4, 0, 0, 8, 0, "is 8");
  expect_refused(4, 2000000000, 2000000000, 2000000000, 2000000000, "4 were started");
}

}  // namespace
}  // namespace longhaul::layout
