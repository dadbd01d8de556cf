#include "runtime/core/fault.h"

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "runtime/core/check.h"

namespace longhaul {
namespace detail {
std::atomic<bool> fault_set{false};
}

namespace {

std::mutex fault_mutex;
FaultSpec fault;
int fault_matches = 0;

struct Name {
  const char* name;
  FaultKind kind;
};
constexpr Name kNames[] = {
    {"hang", FaultKind::hang}, {"spin", FaultKind::spin},   {"stop", FaultKind::stop},
    {"kill", FaultKind::kill}, {"segv", FaultKind::segv},   {"abort", FaultKind::abort},
    {"exit", FaultKind::exit}, {"exit0", FaultKind::exit0}, {"throw", FaultKind::error}};

int parse_number(std::string_view text, std::string_view whole) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(ExitCode::usage, "LONGHAUL_FAULT={}: '{}' is not a number", whole, text);
  return value;
}

void strike(FaultKind kind) {
  switch (kind) {
    case FaultKind::hang:
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    case FaultKind::spin:
      for (std::atomic<bool> run{true}; run.load(std::memory_order_relaxed);) continue;
      return;
    case FaultKind::stop:
      ::raise(SIGSTOP);
      return;
    case FaultKind::kill:
      ::raise(SIGKILL);
      return;
    case FaultKind::segv:
      ::raise(SIGSEGV);
      return;
    case FaultKind::abort:
      std::abort();
    case FaultKind::exit:
      std::exit(3);
    case FaultKind::exit0:
      std::exit(0);
    case FaultKind::error:
      fail(ExitCode::resource, "injected fault");
  }
}

}  // namespace

FaultSpec parse_fault(std::string_view text) {
  FaultSpec spec;
  const std::string_view whole = text;
  auto next = [&] {
    const size_t colon = text.find(':');
    const std::string_view part = text.substr(0, colon);
    text = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
    return part;
  };
  const std::string_view kind = next();
  const Name* found = nullptr;
  for (const Name& n : kNames)
    if (kind == n.name) found = &n;
  if (!found) fail(ExitCode::usage, "LONGHAUL_FAULT={}: unknown kind '{}'", whole, kind);
  spec.kind = found->kind;
  while (!text.empty()) {
    const std::string_view part = next();
    const size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
    if (key == "rank")
      spec.rank = parse_number(value, whole);
    else if (key == "layer")
      spec.layer = parse_number(value, whole);
    else if (key == "after")
      spec.after = parse_number(value, whole);
    else if (key == "phase")
      spec.phase = value;
    else if (key == "operation")
      spec.operation = value;
    else
      fail(ExitCode::usage, "LONGHAUL_FAULT={}: unknown key '{}'", whole, key);
  }
  return spec;
}

void set_fault(std::optional<FaultSpec> spec) {
  std::lock_guard lock(fault_mutex);
  fault_matches = 0;
  if (spec) fault = *spec;
  detail::fault_set.store(spec.has_value());
}

void set_fault_from_environment() {
  if (const char* text = std::getenv("LONGHAUL_FAULT"); text && *text) set_fault(parse_fault(text));
}

void detail::fault_place(int rank, const char* phase, const char* operation, int layer) {
  FaultKind kind;
  {
    std::lock_guard lock(fault_mutex);
    if (fault.rank >= 0 && fault.rank != rank) return;
    if (!fault.phase.empty() && fault.phase != phase) return;
    if (!fault.operation.empty() &&
        std::string_view(operation).find(fault.operation) == std::string_view::npos)
      return;
    if (fault.layer != -2 && fault.layer != layer) return;
    if (++fault_matches != fault.after) return;
    kind = fault.kind;
  }
  strike(kind);
}

}  // namespace longhaul
