// Every index once, on the threads that were promised, with errors brought back.
#include "runtime/core/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace longhaul {
namespace {

TEST(ThreadPool, HandsOutEveryIndexOnce) {
  std::mt19937 random(1);
  for (int threads = 1; threads <= 5; ++threads) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int i = 0; i < 400; ++i) {
      const auto n = static_cast<int64_t>(random() % 50);
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      std::atomic<int> bad_thread{0};
      pool.parallel_for(n, [&](int64_t index, int thread) {
        seen[static_cast<size_t>(index)].fetch_add(1);
        if (thread < 0 || thread >= threads) bad_thread = 1;
      });
      for (const auto& count : seen) ASSERT_EQ(count, 1);
      ASSERT_EQ(bad_thread, 0);
    }
  }
}

TEST(ThreadPool, AThreadNumberIsOneThread) {
  ThreadPool pool(4);
  std::mutex mutex;
  std::vector<std::set<std::thread::id>> ids(4);
  for (int i = 0; i < 200; ++i)
    pool.parallel_for(40, [&](int64_t, int thread) {
      std::lock_guard lock(mutex);
      ids[static_cast<size_t>(thread)].insert(std::this_thread::get_id());
    });
  EXPECT_EQ(ids[0], std::set{std::this_thread::get_id()}) << "the caller works as thread 0";
  for (const auto& of_one : ids) EXPECT_LE(of_one.size(), 1u);
}

// Each task waits until the others have begun: only possible if all threads really work at once.
TEST(ThreadPool, ThreadsWorkAtOnce) {
  ThreadPool pool(3);
  std::atomic<int> begun{0};
  pool.parallel_for(3, [&](int64_t, int) {
    ++begun;
    while (begun < 3) std::this_thread::yield();
  });
  EXPECT_EQ(begun, 3);
}

TEST(ThreadPool, RangesCoverWithoutOverlap) {
  std::mt19937 random(2);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int i = 0; i < 500; ++i) {
      const auto n = static_cast<int64_t>(random() % 1000);
      const auto grain = static_cast<int64_t>(random() % 200);
      std::mutex mutex;
      std::vector<std::pair<int64_t, int64_t>> ranges;
      pool.parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
        std::lock_guard lock(mutex);
        ranges.emplace_back(begin, end);
      });
      std::sort(ranges.begin(), ranges.end());
      int64_t next = 0;
      for (const auto& [begin, end] : ranges) {
        ASSERT_EQ(begin, next);
        ASSERT_GT(end, begin);
        if (ranges.size() > 1) {
          ASSERT_GE(end - begin, grain);
        }
        next = end;
      }
      ASSERT_EQ(next, n);
    }
  }
}

TEST(ThreadPool, BringsBackTheFirstErrorAndGoesOn) {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int i = 0; i < 100; ++i) {
      std::atomic<int> ran{0};
      try {
        pool.parallel_for(1000, [&](int64_t index, int) {
          ++ran;
          if (index == 5) throw std::runtime_error("five");
        });
        FAIL() << "no error";
      } catch (const std::runtime_error& e) {
        EXPECT_STREQ(e.what(), "five");
      }
      if (threads == 1) {
        EXPECT_EQ(ran, 6) << "the rest is not begun";
      }
      std::atomic<int64_t> sum{0};
      pool.parallel_for(10, [&](int64_t index, int) { sum += index; });
      EXPECT_EQ(sum, 45);
    }
  }
}

TEST(ThreadPool, TicksProgress) {
  Progress progress;
  ThreadPool pool(2, &progress);
  EXPECT_EQ(pool.progress(), &progress);
  pool.parallel_for(17, [](int64_t, int) {});
  EXPECT_EQ(progress.ticks, 17u);
  EXPECT_EQ(ThreadPool(1).progress(), nullptr);
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(1 + i % 4);
    std::atomic<int> ran{0};
    if (i % 2 == 0) pool.parallel_for(3, [&](int64_t, int) { ++ran; });
    EXPECT_EQ(ran, i % 2 == 0 ? 3 : 0);
  }
}

}  // namespace
}  // namespace longhaul
