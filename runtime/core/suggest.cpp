#include "runtime/core/suggest.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <vector>

namespace longhaul {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// Optimal string alignment distance: Levenshtein plus swaps of neighbouring letters.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({replace, last[j] + 1, now[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

}  // namespace

std::string_view nearest_name(std::string_view given, std::span<const std::string_view> known) {
  const std::string wanted = lower(given.substr(0, 64));
  std::string_view best;
  size_t best_distance = 0;
  for (std::string_view candidate : known) {
    const std::string name = lower(candidate);
    size_t distance = edit_distance(wanted, name);
    const bool prefix =
        wanted.size() >= 2 && (name.starts_with(wanted) || wanted.starts_with(name));
    // A beginning of the name ("zig" for "zigzag") counts as one slip.
    if (prefix && distance > 0) distance = 1;
    if (!prefix && distance * 2 > std::max(wanted.size(), name.size())) continue;
    if (best.data() == nullptr || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace longhaul
