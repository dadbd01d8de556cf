#pragma once
// A compiled Split pattern and its matches in a text.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace longhaul::io {

// Immutable once made; Matcher below holds what one thread needs.
class SplitRegex {
 public:
  // `pattern` as tokenizer.json has it (Oniguruma). Throws what translate_split_pattern() throws,
  // and Error(usage) where PCRE2 does not accept the pattern.
  explicit SplitRegex(std::string_view pattern);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;
  SplitRegex& operator=(SplitRegex&&) noexcept;

  struct Code;
  const Code& code() const { return *code_; }

 private:
  std::unique_ptr<Code> code_;
};

// Finds the matches of one pattern, one after the other, in valid UTF-8.
class SplitMatcher {
 public:
  explicit SplitMatcher(const SplitRegex& regex);
  ~SplitMatcher();
  SplitMatcher(SplitMatcher&&) noexcept;

  void start(std::string_view text);
  struct Match {
    size_t begin, end;  // bytes; may be empty, but never right after the match before
  };
  // False when there are no more. Throws Error(usage) when the pattern needs more backtracking than
  // the limits allow (they grow with the text, so no sensible pattern meets them).
  bool next(Match& match);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longhaul::io
