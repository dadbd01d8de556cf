#pragma once
// The threads of one rank. Everything parallel on a CPU rank goes through one of these, so that
// ranks and threads together never exceed the cores (libraries are called with one thread each).

#include <cstdint>
#include <functional>
#include <memory>

#include "runtime/core/progress.h"

namespace longhaul {

class ThreadPool {
 public:
  // num_threads >= 1 counts the calling thread, which works too; Error(resource) where the system
  // gives fewer. `progress`, where given, gets a
  // tick after each task.
  explicit ThreadPool(int num_threads, Progress* progress = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  Progress* progress() const;

  // Calls task(index, thread) once for every index in [0, num_tasks), thread in
  // [0, num_threads()); tasks are handed out in order, one at a time. Returns when all are done;
  // the first exception is rethrown here. Not reentrant: a task must not call parallel_for.
  void parallel_for(int64_t num_tasks, const std::function<void(int64_t index, int thread)>& task);

  // The same over [0, n) in about num_threads() * 4 ranges of at least `grain` elements:
  // task(begin, end).
  void parallel_ranges(int64_t n, int64_t grain,
                       const std::function<void(int64_t begin, int64_t end)>& task);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul
