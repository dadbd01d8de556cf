#pragma once
// Reads the parts of an Oniguruma pattern that stand for single characters; split_pattern.cpp,
// which reads the rest, is its only user.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/unicode_tables.h"

namespace longhaul::io {

bool is_ascii_letter(char32_t c);
bool is_digit(char32_t c);
// A character as PCRE2 reads it, inside classes and outside.
std::string code_in_pattern(char32_t code);

// One set of characters as members of PCRE2's [...] and whether it is the set's complement that is
// meant.
struct CharacterSet {
  std::string members;
  bool negated = false;
  // Sets whose complements are members too ([^\S\n]): they have no spelling inside a class once the
  // set itself is more than one property.
  std::vector<std::string> complements;

  std::string pattern() const;
};

class CharacterReader {
 public:
  explicit CharacterReader(std::string_view pattern) : in_(pattern) {}

 protected:
  [[noreturn]] void refuse(std::string_view what, size_t place) const;
  bool looking_at(std::string_view text) const { return in_.substr(at_).starts_with(text); }

  // \s \d \w \h, \p{..} and their complements; nothing is consumed where none of them stands.
  std::optional<CharacterSet> set_escape(bool in_class);
  // One character written with a backslash.
  char32_t character_escape();
  // What follows '[' up to its ']'.
  CharacterSet bracket_class(size_t place);

  std::string_view in_;
  size_t at_ = 0;

 private:
  CharacterSet property_escape();
  char32_t hexadecimal(size_t least, size_t most, size_t place);
  void class_range(CharacterSet& whole);
  char32_t class_character();
};

}  // namespace longhaul::io
