#pragma once
// Cuts text into the words that byte-pair merges never cross: Split and ByteLevel steps in a row.

#include <functional>
#include <string_view>
#include <vector>

#include "runtime/io/split_regex.h"

namespace longhaul::io {

class Pretokenizer {
 public:
  enum class Behavior {
    isolated,  // matches, and what lies between them, are pieces
    removed,   // what matches is dropped
  };

  // Each piece is cut by the pattern; `invert` swaps what matches and what does not.
  void add_split(SplitRegex regex, Behavior behavior, bool invert);
  // Each piece that does not begin with a space gets one.
  void add_prefix_space();
  size_t num_steps() const { return steps_.size(); }

  // One thread's use of the steps: matchers are costly to make and hold state.
  class Run {
   public:
    explicit Run(const Pretokenizer& steps);
    // Calls `word` with every word of `text` (valid UTF-8) in order; none is empty.
    void words(std::string_view text, const std::function<void(std::string_view)>& word);

   private:
    void apply(size_t step, std::string_view piece,
               const std::function<void(std::string_view)>& word);
    const Pretokenizer& steps_;
    std::vector<SplitMatcher> matchers_;  // one a step; unused for the prefix space
  };

 private:
  struct Step {
    std::vector<SplitRegex> regex;  // one, or none for the prefix space
    Behavior behavior = Behavior::isolated;
    bool invert = false;
  };
  std::vector<Step> steps_;
};

}  // namespace longhaul::io
