#pragma once
// What an exception means to the user, and the way out for those that cannot be thrown: from
// destructors and helper threads.

#include <exception>
#include <string>

#include "runtime/core/check.h"

namespace longhaul::comm {

struct Failure {
  ExitCode code = ExitCode::internal;
  std::string message;  // one line, without "longhaul: "
};
Failure explain(std::exception_ptr error);

// Reports the error as the top handler would and ends every rank.
[[noreturn]] void end_process(std::exception_ptr error);

// What end_process does; a session sets it. Without one: one line on stderr and the exit code.
// nullptr restores that.
using FatalHandler = void (*)(const Failure& failure);
void set_fatal_handler(FatalHandler handler);

}  // namespace longhaul::comm
