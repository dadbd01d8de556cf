#pragma once
// Errors: one exception type with the expression, the values and the place; one handler at the top
// (apps/main.cpp) prints it and ends every rank with a documented exit code.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace longhaul {

// Exit codes of the program (README, "Exit codes").
enum class ExitCode : int {
  good = 0,
  different = 1,   // compared and different, or an answer wrong
  usage = 2,       // the command line or the request asks for something that cannot be
  mismatch = 3,    // incomplete or mismatched data: a missing tensor, another shape or dtype
  corrupt = 4,     // unreadable or corrupt input
  resource = 5,    // out of memory, disk or GPU
  internal = 70,   // a defect of longhaul
  peer_lost = 75,  // a peer hung or was lost
  stopped = 124,   // stopped by a signal
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message, const char* file = "", int line = 0)
      : std::runtime_error(message), code_(code), file_(file), line_(line) {}
  ExitCode code() const { return code_; }
  const char* file() const { return file_; }  // empty for errors that are the user's to mend
  int line() const { return line_; }

 private:
  ExitCode code_;
  const char* file_;
  int line_;
};

// Errors in what a person gave us: one line that says what, where and what to do.
template <class... A>
[[noreturn]] void fail(ExitCode code, fmt::format_string<A...> format, A&&... args) {
  throw Error(code, fmt::format(format, std::forward<A>(args)...));
}

namespace detail {
[[noreturn]] void check_failed(const char* expression, const std::string& values, const char* file,
                               int line);
}

}  // namespace longhaul

// A defect of longhaul (exit 70) unless the condition holds. The message after it is a fmt string
// with the values: LH_CHECK(rows == out.rows(), "rows {} against {}", rows, out.rows()).
#define LH_CHECK(condition, ...)                                                            \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::longhaul::detail::check_failed(#condition, ::fmt::format("" __VA_ARGS__), __FILE__, \
                                       __LINE__);                                           \
  } while (false)
