// Waiting for a device is an operation of the watchdog. Without a GPU: what is waited for is a
// flag.

#include "comm/cuda/device_wait.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "comm/single_communicator.h"
#include "comm/thread_communicator.h"
#include "runtime/core/check.h"

namespace longhaul::comm::cuda {
namespace {

using std::chrono::milliseconds;

TEST(WaitUntil, ReturnsWhenDoneAndPolls) {
  std::atomic<int> polls{0};
  run_threads(3, [&](Communicator& world) {
    const auto begin = std::chrono::steady_clock::now();
    wait_until(
        world, {"wait for GPU", 3},
        [&] { return std::chrono::steady_clock::now() - begin > milliseconds(50); },
        [&] { ++polls; });
    world.barrier({"after"});
  });
  EXPECT_GE(polls.load(), 3);
}

TEST(WaitUntil, WorksAlone) {
  const auto alone = make_single_communicator();
  int looks = 0;
  wait_until(*alone, {"wait for GPU"}, [&] { return ++looks > 10; });
  EXPECT_EQ(looks, 11);
}

TEST(WaitUntil, TheRankThatHangsIsNamedNotTheOneThatWaits) {
  try {
    run_threads(2,
                [](Communicator& world) {
                  world.barrier({"begin"});
                  if (world.rank() == 1)
                    std::this_thread::sleep_for(milliseconds(1500));
                  else
                    wait_until(world, {"wait for GPU"}, [] { return false; });
                },
                {0.5});
    FAIL() << "nobody was blamed";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::peer_lost);
    EXPECT_NE(std::string(e.what()).find("rank 1 makes no progress"), std::string::npos)
        << e.what();
  }
}

TEST(WaitUntil, WhatPollThrowsEndsTheWait) {
  const auto alone = make_single_communicator();
  EXPECT_THROW(wait_until(
                   *alone, {"wait for GPU"}, [] { return false; },
                   [] { fail(ExitCode::peer_lost, "a transfer failed"); }),
               Error);
}

}  // namespace
}  // namespace longhaul::comm::cuda
