#include "comm/rank_reporter.h"

#include <unistd.h>

#include <cstring>
#include <exception>

#include "runtime/core/fault.h"

namespace longhaul::comm {
namespace {

template <size_t N>
void copy_text(char (&to)[N], const char* from) {
  std::memset(to, 0, N);
  std::strncpy(to, from, N - 1);
}

}  // namespace

RankReporter::RankReporter(RankRecord& record, int world_rank, uint64_t pid_namespace)
    : record_(record) {
  body_.pid_namespace = pid_namespace;
  body_.world_rank = world_rank;
  body_.pid = static_cast<int32_t>(getpid());
  body_.state = RankState::computing;
  update([](RankBody&) {});
  progress_.observer.store(this, std::memory_order_release);
}

RankReporter::~RankReporter() {
  progress_.observer.store(nullptr, std::memory_order_release);
  update([](RankBody& body) { body.state = RankState::ended; });
}

template <class F>
void RankReporter::update(F&& change) {
  std::lock_guard lock(mutex_);
  change(body_);
  copy_text(body_.phase, progress_.phase.load(std::memory_order_relaxed));
  record_.ticks.store(progress_.ticks.load(std::memory_order_relaxed), std::memory_order_relaxed);
  record_.write(body_);
}

void RankReporter::entered(const Progress& progress) {
  update([&](RankBody& body) {
    copy_text(body.operation, progress.operation.load(std::memory_order_relaxed));
    body.layer = progress.layer.load(std::memory_order_relaxed);
  });
  check_stop();
  fault_point(body_.world_rank, progress.phase.load(std::memory_order_relaxed),
              progress.operation.load(std::memory_order_relaxed),
              progress.layer.load(std::memory_order_relaxed));
}

void RankReporter::begin_operation(const Fingerprint& operation) {
  progress_.tick();
  update([&](RankBody& body) {
    body.wait = operation;
    copy_text(body.operation, operation.name);
    body.layer = operation.layer;
  });
  check_stop();
  fault_point(body_.world_rank, progress_.phase.load(std::memory_order_relaxed), operation.name,
              operation.layer);
}

void RankReporter::begin_wait(const Fingerprint& operation) {
  update([&](RankBody& body) {
    body.wait = operation;
    body.state = RankState::waiting;
    body.missing = -1;
  });
}

void RankReporter::end_wait() {
  progress_.tick();
  // A request that is waited for while an error unwinds must not hide where the error struck.
  const bool unwinding = std::uncaught_exceptions() > 0;
  update([unwinding](RankBody& body) {
    body.state = RankState::computing;
    if (unwinding) return;
    copy_text(body.operation, body.wait.name);
    body.layer = body.wait.layer;
  });
}

void RankReporter::check_wait(int missing) {
  if (missing != body_.missing) update([&](RankBody& body) { body.missing = missing; });
  check_stop();
}

void RankReporter::set_world_rank(int world_rank) {
  update([&](RankBody& body) { body.world_rank = world_rank; });
}

void RankReporter::set_state(RankState state) {
  progress_.tick();
  update([&](RankBody& body) { body.state = state; });
}

void RankReporter::set_failed(int code, uint64_t message_hash, bool clean) {
  progress_.tick();
  update([&](RankBody& body) {
    body.state = RankState::failed;
    body.failure_code = code;
    body.failure_hash = message_hash;
    body.failure_unclean = !clean;
  });
}

void RankReporter::beat() {
  record_.ticks.store(progress_.ticks.load(std::memory_order_relaxed), std::memory_order_relaxed);
  record_.beats.fetch_add(1, std::memory_order_relaxed);
}

RankBody RankReporter::body() const {
  std::lock_guard lock(mutex_);
  return body_;
}

}  // namespace longhaul::comm
