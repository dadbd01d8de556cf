#pragma once
// Faults that a test asks for with LONGHAUL_FAULT, at the places where a rank reports progress:
//
//   KIND[:rank=R][:phase=NAME][:operation=TEXT][:layer=L][:after=N]
//
// KIND: hang (sleeps for ever), spin (computes for ever), stop (SIGSTOP), kill (SIGKILL), segv,
// abort, exit (code 3), exit0, throw (an Error with exit code 5). It strikes at the N-th matching
// place (default the first, N = 1). `operation` matches any name that contains the text.
// Without the variable a place costs one relaxed load.

#include <atomic>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul {

enum class FaultKind { hang, spin, stop, kill, segv, abort, exit, exit0, error };

struct FaultSpec {
  FaultKind kind = FaultKind::hang;
  int rank = -1;   // -1: every rank
  int layer = -2;  // -2: any
  std::string phase;
  std::string operation;
  int after = 1;
};

FaultSpec parse_fault(std::string_view text);  // throws Error(usage)
void set_fault(std::optional<FaultSpec> spec);
void set_fault_from_environment();  // LONGHAUL_FAULT; throws Error(usage)

namespace detail {
extern std::atomic<bool> fault_set;
void fault_place(int rank, const char* phase, const char* operation, int layer);
}  // namespace detail

// A place where a fault may strike.
inline void fault_point(int rank, const char* phase, const char* operation, int layer) {
  if (detail::fault_set.load(std::memory_order_relaxed)) [[unlikely]]
    detail::fault_place(rank, phase, operation, layer);
}

}  // namespace longhaul
