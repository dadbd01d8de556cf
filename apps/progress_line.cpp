#include "apps/progress_line.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace longhaul::apps {

namespace {

// Where a person would see the line: our stderr, or, since mpirun gives its ranks a pipe, the
// stderr of the launcher on this host that started us. Null where neither is a terminal.
std::FILE* open_terminal() {
  if (isatty(STDERR_FILENO) == 1) return ::fdopen(::dup(STDERR_FILENO), "w");
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return nullptr;
  const int fd =
      ::open(fmt::format("/proc/{}/fd/2", ::getppid()).c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (fd >= 0 && isatty(fd) == 1) return ::fdopen(fd, "w");
  if (fd >= 0) ::close(fd);
  return nullptr;
}

}  // namespace

ProgressLine::ProgressLine(const Progress& progress, int num_layers, bool show)
    : progress_(progress), num_layers_(num_layers), terminal_(show ? open_terminal() : nullptr) {
  if (terminal_ != nullptr) thread_ = std::thread([this] { loop(); });
}

ProgressLine::~ProgressLine() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  std::fputs("\r\033[K", terminal_);
  std::fclose(terminal_);
}

void ProgressLine::report(const model::StepReport& step) {
  std::lock_guard lock(mutex_);
  last_ = step;
}

std::string ProgressLine::line() {
  const int layer = progress_.layer.load(std::memory_order_relaxed);
  std::string text = fmt::format("{}", progress_.phase.load(std::memory_order_relaxed));
  if (last_.num_steps > 1)
    text += fmt::format(" step {}/{}", std::min(last_.step + 2, last_.num_steps), last_.num_steps);
  if (last_.tokens_total > 0)
    text += fmt::format(", {} of {} tokens", last_.tokens_done, last_.tokens_total);
  if (layer >= 0) text += fmt::format(", layer {}/{}", layer + 1, num_layers_);
  return text + fmt::format(", {}", progress_.operation.load(std::memory_order_relaxed));
}

void ProgressLine::loop() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, std::chrono::milliseconds(200), [&] { return stop_; })) {
    fmt::print(terminal_, "\r\033[K{}", line());
    std::fflush(terminal_);
  }
}

}  // namespace longhaul::apps
