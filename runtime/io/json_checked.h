#pragma once
// JSON from files that may be damaged or hostile: every check of the reader happens here, and each
// complaint is one printable line.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace longhaul::io {

// Parses `text`. Throws Error(corrupt) beginning with `where` for anything that is no JSON, for
// bytes that are not UTF-8, for a key that occurs twice in one object, and for nesting deeper than
// `max_depth` (an empty object has depth 1).
nlohmann::json parse_json_checked(std::string_view text, int max_depth, const std::string& where);

// The whole of a regular file. Throws Error(corrupt) when it cannot be read or holds more than
// max_bytes. `where` names the file in messages.
std::string read_file_checked(const std::filesystem::path& file, size_t max_bytes);

// `text` in single quotes, fit for one line of a log: control characters and bytes that are not
// printable ASCII as \xNN, cut after 80 bytes.
std::string in_quotes(std::string_view text);

// A value as JSON on one line, cut after 80 bytes.
std::string shown(const nlohmann::json& value);

}  // namespace longhaul::io
