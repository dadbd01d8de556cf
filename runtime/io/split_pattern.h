#pragma once
// Regular expressions of tokenizer.json, written for Oniguruma (Ruby syntax), as PCRE2 patterns
// that match the same text.
//
// What reads the same in both is passed on, what differs is rewritten (\s, \w, \h, \v, ^, $, {,n}),
// and what is not known to be the same is refused by name. PCRE2 must be run with PCRE2_UTF and
// PCRE2_UCP. Reference: Oniguruma's doc/RE and doc/SYNTAX.md; pcre2pattern(3).

#include <string>
#include <string_view>

namespace longhaul::io {

// Throws Error(usage) that names the construct and its place, for constructs that are refused, and
// Error(corrupt) for patterns that end in the middle.
std::string translate_split_pattern(std::string_view pattern);

}  // namespace longhaul::io
