#pragma once
// UTF-8 as RFC 3629 has it: no surrogates, nothing past U+10FFFF, no overlong forms.

#include <cstddef>
#include <string>
#include <string_view>

namespace longhaul::io {

struct CodePoint {
  char32_t value = 0;
  int length = 0;  // bytes; negative: that many bytes form no character (a maximal subpart)
};

// The character at text[at], at < text.size().
CodePoint code_point_at(std::string_view text, size_t at);

// The character that ends just before text[at], at > 0, in valid UTF-8.
CodePoint code_point_before(std::string_view text, size_t at);

// The first byte that is not part of a whole character; npos where the text is valid.
size_t find_invalid_utf8(std::string_view text);

void append_utf8(std::string& text, char32_t value);

// Each maximal subpart that is no character becomes one U+FFFD (Unicode 15, section 3.9, "U+FFFD
// Substitution of Maximal Subparts"; what Rust and Python do too).
std::string replace_invalid_utf8(std::string_view text);

}  // namespace longhaul::io
