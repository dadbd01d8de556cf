#pragma once
// What readers of JSON files from people share: the file as text, its lines, and one short line
// about what is wrong with it.

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace longhaul::io {

// The whole file, without a UTF-8 byte order mark. Throws Error(corrupt) for what is missing, not a
// regular file, not readable, UTF-16, or holds a NUL byte (which JSON readers take for the end).
std::string read_text_file(const std::filesystem::path& file);

// Calls `each` with every line that is not blank and its number, from 1. LF or CRLF.
void for_each_line(std::string_view text,
                   const std::function<void(std::string_view line, int64_t number)>& each);

struct TextPlace {
  int64_t line = 1;
  int64_t column = 1;  // in bytes
};
TextPlace place_in_text(std::string_view text, size_t byte);

// A JSON parser's complaint without its prefix, in one line of printable ASCII, at most about 200
// bytes (the original quotes what it last read, however long).
std::string short_json_complaint(const std::exception& error);

// A person's text in a message: one line of printable ASCII, quoted, cut after `limit` bytes.
std::string quoted_excerpt(std::string_view text, size_t limit = 60);

}  // namespace longhaul::io
