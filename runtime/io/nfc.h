#pragma once
// Unicode normalization form C, as the `tokenizers` package does it (see unicode_tables.h for where
// its Unicode version matters).

#include <string>
#include <string_view>

namespace longhaul::io {

// `text` is valid UTF-8. Linear in the text but for sorting runs of combining marks.
std::string normalize_nfc(std::string_view text);

}  // namespace longhaul::io
