#include "runtime/io/json_lines.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "runtime/core/check.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

// One line of printable ASCII: anything else as \xHH (no character) or \u{HEX}.
std::string one_line(std::string_view text, size_t limit) {
  std::string line;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    const auto bytes = static_cast<size_t>(std::abs(point.length));
    std::string shown;
    if (point.length < 0) {
      for (const char c : text.substr(at, bytes)) {
        shown += fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
      }
    } else if (point.value >= 0x20 && point.value < 0x7F) {
      shown.assign(1, text[at]);
    } else {
      shown = fmt::format("\\u{{{:X}}}", static_cast<uint32_t>(point.value));
    }
    if (line.size() + shown.size() > limit) return line.append("...");
    line += shown;
    at += bytes;
  }
  return line;
}

}  // namespace

std::string read_text_file(const std::filesystem::path& file) {
  const std::string name = file.string();
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    fail(ExitCode::usage, "{}: no such file", name);
  }
  if (error) fail(ExitCode::corrupt, "{}: cannot be read: {}", name, error.message());
  if (std::filesystem::is_directory(status)) {
    fail(ExitCode::corrupt, "{}: is a folder, not a file", name);
  }
  if (!std::filesystem::is_regular_file(status)) {
    fail(ExitCode::corrupt, "{}: is not a regular file", name);
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(name.c_str(), "rb"),
                                                               &std::fclose);
  if (!stream) fail(ExitCode::corrupt, "{}: cannot be read: {}", name, std::strerror(errno));
  const auto size = std::filesystem::file_size(file, error);
  if (error) fail(ExitCode::corrupt, "{}: cannot be read: {}", name, error.message());
  std::string text(static_cast<size_t>(size), '\0');
  const size_t got = text.empty() ? 0 : std::fread(text.data(), 1, text.size(), stream.get());
  if (got != text.size()) {
    fail(ExitCode::corrupt, "{}: only {} of {} bytes could be read{}{}", name, got, text.size(),
         std::ferror(stream.get()) ? ": " : "",
         std::ferror(stream.get()) ? std::strerror(errno) : "");
  }
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) {
    fail(ExitCode::corrupt, "{}: is UTF-16; save it as UTF-8", name);
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (const size_t nul = text.find('\0'); nul != std::string::npos) {
    fail(ExitCode::corrupt, "{}:{}: holds a NUL byte, which is not text", name,
         place_in_text(text, nul).line);
  }
  return text;
}

void for_each_line(std::string_view text,
                   const std::function<void(std::string_view, int64_t)>& each) {
  int64_t number = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t newline = text.find('\n', start);
    const size_t end = newline == std::string_view::npos ? text.size() : newline;
    const std::string_view line = text.substr(start, end - start);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) each(line, number);
    start = end + 1;
  }
}

TextPlace place_in_text(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte, text.size()));
  const size_t newline = before.rfind('\n');
  const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
  return {1 + std::count(before.begin(), before.end(), '\n'),
          1 + static_cast<int64_t>(before.size() - line_start)};
}

std::string short_json_complaint(const std::exception& error) {
  std::string_view what = error.what();
  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ...": the place
  // is ours to say, since the parser may have seen one line of many only.
  if (const size_t name = what.find("] "); name != std::string_view::npos)
    what.remove_prefix(name + 2);
  if (what.starts_with("parse error")) {
    if (const size_t colon = what.find(": "); colon != std::string_view::npos) {
      what.remove_prefix(colon + 2);
    }
  }
  return one_line(what, 200);
}

std::string quoted_excerpt(std::string_view text, size_t limit) {
  return fmt::format("\"{}\"", one_line(text, limit));
}

}  // namespace longhaul::io
