#pragma once
// Shell globs on tensor names: `*hidden`, `layers.0[0-3].*` (POSIX fnmatch, no special dots or
// slashes).

#include <string>
#include <string_view>
#include <vector>

namespace longhaul::io {

// Any of several patterns; no pattern at all matches every name.
class GlobFilter {
 public:
  GlobFilter() = default;
  // Throws Error(usage) for an empty pattern, an unclosed or empty [...] and a trailing backslash.
  explicit GlobFilter(std::vector<std::string> patterns);
  bool matches(std::string_view name) const;
  const std::vector<std::string>& patterns() const { return patterns_; }

 private:
  std::vector<std::string> patterns_;
};

}  // namespace longhaul::io
