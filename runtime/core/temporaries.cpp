#include "runtime/core/temporaries.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

namespace longhaul {
namespace {

// Fixed storage: a signal handler reads it at any moment.
struct Slot {
  std::atomic<int> state{0};  // 0 free, 1 being written, 2 holds a path
  char path[1024];
};
Slot slots[8];

}  // namespace

void remember_temporary(const std::string& path) {
  if (path.size() >= sizeof Slot::path) return;
  for (Slot& s : slots) {
    int free = 0;
    if (!s.state.compare_exchange_strong(free, 1)) continue;
    std::memcpy(s.path, path.c_str(), path.size() + 1);
    s.state.store(2);
    return;
  }
}

void forget_temporary(const std::string& path) {
  for (Slot& s : slots)
    if (s.state.load() == 2 && path == s.path) s.state.store(0);
}

void remove_temporaries() noexcept {
  for (Slot& s : slots)
    if (s.state.load() == 2) (void)unlink(s.path);
}

void exit_at_once(int code) noexcept {
  remove_temporaries();
  _exit(code);
}

}  // namespace longhaul
