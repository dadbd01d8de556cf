#include "runtime/core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul {

struct ThreadPool::Impl {
  Progress* progress = nullptr;
  std::vector<std::thread> threads;

  std::mutex mutex;
  std::condition_variable start, done;
  uint64_t generation = 0;
  bool stop = false;
  int working = 0;

  const std::function<void(int64_t, int)>* task = nullptr;
  int64_t num_tasks = 0;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;

  void work(int thread) {
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= num_tasks) return;
      try {
        (*task)(i, thread);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        next.store(num_tasks, std::memory_order_relaxed);
      }
      if (progress != nullptr) progress->tick();
    }
  }

  void join() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    start.notify_all();
    for (std::thread& t : threads) t.join();
  }

  void run(int thread) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      start.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      work(thread);
      lock.lock();
      if (--working == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads, Progress* progress) : impl_(std::make_unique<Impl>()) {
  LH_CHECK(num_threads >= 1, "{} threads", num_threads);
  impl_->progress = progress;
  try {
    for (int t = 1; t < num_threads; ++t)
      impl_->threads.emplace_back([impl = impl_.get(), t] { impl->run(t); });
  } catch (const std::system_error&) {
    const size_t started = impl_->threads.size();
    impl_->join();
    fail(ExitCode::resource, "the system gave {} of {} threads; give fewer with --threads",
         started + 1, num_threads);
  }
}

ThreadPool::~ThreadPool() {
  impl_->join();
}

int ThreadPool::num_threads() const {
  return static_cast<int>(impl_->threads.size()) + 1;
}
Progress* ThreadPool::progress() const {
  return impl_->progress;
}

void ThreadPool::parallel_for(int64_t num_tasks, const std::function<void(int64_t, int)>& task) {
  if (num_tasks <= 0) return;
  Impl& p = *impl_;
  p.task = &task;
  p.num_tasks = num_tasks;
  p.next.store(0, std::memory_order_relaxed);
  p.error = nullptr;
  const bool share = num_tasks > 1 && !p.threads.empty();
  if (share) {
    std::lock_guard lock(p.mutex);
    p.working = static_cast<int>(p.threads.size());
    ++p.generation;
    p.start.notify_all();
  }
  p.work(0);
  if (share) {
    std::unique_lock lock(p.mutex);
    p.done.wait(lock, [&] { return p.working == 0; });
  }
  if (p.error) std::rethrow_exception(p.error);
}

void ThreadPool::parallel_ranges(int64_t n, int64_t grain,
                                 const std::function<void(int64_t, int64_t)>& task) {
  if (n <= 0) return;
  const int64_t pieces = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1,
                                             num_threads() == 1 ? 1 : num_threads() * 4);
  parallel_for(pieces, [&](int64_t i, int) { task(n * i / pieces, n * (i + 1) / pieces); });
}

}  // namespace longhaul
