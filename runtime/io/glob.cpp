#include "runtime/io/glob.h"

#include <fnmatch.h>

#include <utility>

#include "runtime/core/check.h"

namespace longhaul::io {
namespace {

// Index just past the bracket expression that opens at `i`, or npos when it is never closed.
size_t end_of_bracket(std::string_view pattern, size_t i) {
  ++i;
  if (i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^')) ++i;
  if (i < pattern.size() && pattern[i] == ']') ++i;  // a first ']' is an ordinary character
  while (i < pattern.size()) {
    if (pattern[i] == ']') return i + 1;
    if (pattern[i] == '[' && i + 1 < pattern.size() &&
        (pattern[i + 1] == ':' || pattern[i + 1] == '.' || pattern[i + 1] == '=')) {
      const size_t close = pattern.find(std::string{pattern[i + 1], ']'}, i + 2);
      if (close == std::string_view::npos) return std::string_view::npos;
      i = close + 2;
    } else {
      i += pattern[i] == '\\' ? 2u : 1u;
    }
  }
  return std::string_view::npos;
}

// fnmatch itself takes a malformed pattern as literal text, which would silently match nothing.
void check_pattern(const std::string& pattern) {
  auto refuse = [&](const char* why) {
    fail(ExitCode::usage, "glob '{}': {}; write patterns such as '*hidden' or 'layers.0[0-3].*'",
         pattern, why);
  };
  if (pattern.empty()) refuse("it is empty and matches nothing");
  if (pattern.find('\0') != std::string::npos) refuse("it holds a zero byte");
  size_t i = 0;
  while (i < pattern.size()) {
    if (pattern[i] == '\\') {
      if (i + 1 == pattern.size()) refuse("nothing follows the backslash");
      i += 2;
    } else if (pattern[i] == '[') {
      i = end_of_bracket(pattern, i);
      if (i == std::string_view::npos) refuse("a '[' is never closed");
    } else {
      ++i;
    }
  }
}

}  // namespace

GlobFilter::GlobFilter(std::vector<std::string> patterns) : patterns_(std::move(patterns)) {
  for (const std::string& pattern : patterns_) check_pattern(pattern);
}

bool GlobFilter::matches(std::string_view name) const {
  if (patterns_.empty()) return true;
  const std::string text(name);
  for (const std::string& pattern : patterns_)
    if (::fnmatch(pattern.c_str(), text.c_str(), 0) == 0) return true;
  return false;
}

}  // namespace longhaul::io
