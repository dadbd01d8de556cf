#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runtime/core/check.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

void expect_clean(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const Error& e) {
    const std::string message = e.what();
    const bool documented = e.code() == ExitCode::usage || e.code() == ExitCode::mismatch ||
                            e.code() == ExitCode::corrupt;
    const bool one_line =
        !message.empty() && message.size() < 600 &&
        std::all_of(message.begin(), message.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    if (!documented || !one_line)
      std::fprintf(stderr, "fuzz: exit code %d, message: %s\n", static_cast<int>(e.code()),
                   message.c_str());
    require(documented, "an exit code that bad input must not give");
    require(one_line, "a message that is not one short printable line");
  }
}

}  // namespace longhaul::fuzz
