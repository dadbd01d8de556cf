#include "comm/affinity.h"

#include <gtest/gtest.h>

namespace longhaul::comm {
namespace {

CoreSet cores(size_t begin, size_t end) {
  CoreSet set;
  for (size_t i = begin; i < end; ++i) set.set(i);
  return set;
}

CoreShares shares(std::vector<CoreSet> ranks, CoreSet available, int self = 0) {
  CoreShares s;
  s.ranks = std::move(ranks);
  s.available = available;
  s.self = self;
  return s;
}

TEST(CoreShares, UnboundRanksDivideTheCores) {
  EXPECT_EQ(shares({cores(0, 8)}, cores(0, 8)).default_threads(), 8);
  EXPECT_EQ(shares({cores(0, 8), cores(0, 8)}, cores(0, 8)).default_threads(), 4);
  EXPECT_EQ(shares({cores(0, 8), cores(0, 8), cores(0, 8)}, cores(0, 8)).default_threads(), 2);
}

TEST(CoreShares, MoreRanksThanCoresGetOneThreadEach) {
  EXPECT_EQ(shares({cores(0, 2), cores(0, 2), cores(0, 2)}, cores(0, 2)).default_threads(), 1);
  EXPECT_EQ(shares({cores(0, 2), cores(0, 2), cores(0, 2)}, cores(0, 2)).warning(1), "");
}

TEST(CoreShares, BoundRanksKeepTheirOwn) {
  EXPECT_EQ(shares({cores(0, 4), cores(4, 16)}, cores(0, 16), 1).default_threads(), 12);
  // Half overlapping: 2 cores alone and 2 shared by two.
  EXPECT_EQ(shares({cores(0, 4), cores(2, 6)}, cores(0, 6)).default_threads(), 3);
}

TEST(CoreShares, QuotaOfAContainerLimits) {
  CoreShares s = shares({cores(0, 64), cores(0, 64)}, cores(0, 64));
  s.quota_cores = 6;
  EXPECT_EQ(s.default_threads(), 3);
  EXPECT_NE(s.warning(8).find("share 6 cores"), std::string::npos) << s.warning(8);
}

TEST(CoreShares, IdleCoresAreWarnedAboutWithTheOption) {
  // mpirun binds one or two ranks to one core each.
  const CoreShares s = shares({cores(0, 1), cores(1, 2)}, cores(0, 16));
  EXPECT_EQ(s.default_threads(), 1);
  const std::string warning = s.warning(1);
  EXPECT_NE(warning.find("2 ranks of this host may use 2 of its 16 cores"), std::string::npos)
      << warning;
  EXPECT_NE(warning.find("--bind-to none"), std::string::npos);
  EXPECT_NE(warning.find("ppr:2:node:PE=8"), std::string::npos);
  EXPECT_EQ(shares({cores(0, 8), cores(8, 16)}, cores(0, 16)).warning(8), "");
}

TEST(CoreShares, TooManyThreadsAreWarnedAbout) {
  const CoreShares s = shares({cores(0, 4), cores(0, 4)}, cores(0, 4));
  EXPECT_EQ(s.warning(2), "");
  EXPECT_NE(s.warning(4).find("--threads 2"), std::string::npos) << s.warning(4);
}

TEST(CoreShares, ThisProcess) {
  const CoreSet own = cores_of_this_process();
  EXPECT_GE(own.count(), 1u);
  int argc = 0;
  MpiSession session(&argc, nullptr);
  const CoreShares s = gather_core_shares(session);
  EXPECT_EQ(s.ranks.size(), 1u);
  EXPECT_GE(s.default_threads(), 1);
  EXPECT_LE(s.default_threads(), static_cast<int>(own.count()));
}

}  // namespace
}  // namespace longhaul::comm
