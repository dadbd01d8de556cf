#pragma once
// What an expression throws, as one value that a test can compare.

#include <string>

#include "runtime/core/check.h"

namespace longhaul {

struct Failure {
  int code = 0;  // of the documented exit codes; 0: nothing was thrown
  std::string message;
  bool mentions(const std::string& part) const { return message.find(part) != std::string::npos; }
};

template <class F>
Failure failure_of(F&& run) {
  try {
    run();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {};
}

}  // namespace longhaul
