#include "runtime/core/suggest.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace longhaul {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"allgather", "ring", "pass_q", "ulysses",
                                                    "zigzag"};

TEST(NearestName, FindsSlipsOfEveryKind) {
  EXPECT_EQ(nearest_name("algather", kNames), "allgather");
  EXPECT_EQ(nearest_name("rnig", kNames), "ring");
  EXPECT_EQ(nearest_name("pass-q", kNames), "pass_q");
  EXPECT_EQ(nearest_name("Ulyses", kNames), "ulysses");
  EXPECT_EQ(nearest_name("ZIGZAG", kNames), "zigzag");
  EXPECT_EQ(nearest_name("zig", kNames), "zigzag");
  EXPECT_EQ(nearest_name("ring2", kNames), "ring");
}

TEST(NearestName, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(nearest_name("", kNames), "");
  EXPECT_EQ(nearest_name("quadratic", kNames), "");
  EXPECT_EQ(nearest_name("ring", {}), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x'), kNames), "");
}

}  // namespace
}  // namespace longhaul
