#pragma once
// What the Hugging Face `tokenizers` package (0.23) takes a code point for, whatever the Unicode
// version of the libraries here: its regular expressions know Unicode 16.0, PCRE2 10.42 knows 14.0,
// utf8proc 2.8 knows 15.0, and its normalizer stopped at 9.0.

#include <span>
#include <string>

namespace longhaul::io {

struct CodeRange {
  char32_t first, last;
};
struct CategoryRange {
  char32_t first, last;
  char category[3];  // "Lu", "Nd", ...
};

// Code points assigned after Unicode 14.0 (and U+1171E, which changed), ascending.
std::span<const CategoryRange> newer_categories();

// General category, two letters, as of Unicode 16.0.
std::string general_category(char32_t code);

// Code points that the package's NFC leaves alone: it neither reorders nor composes nor decomposes
// them, and nothing moves past them.
bool is_inert_in_nfc(char32_t code);

// White_Space: what \s means to the package, 25 code points, the same in both its engines.
std::span<const CodeRange> white_space();
bool is_white_space(char32_t code);

// \w of UTS #18 (Annex C): what `single_word` looks at.
bool is_word_character(char32_t code);

// Alphabetic, but of a category (So) that is not: circled and squared letters.
std::span<const CodeRange> alphabetic_symbols();

}  // namespace longhaul::io
