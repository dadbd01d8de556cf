#include "runtime/io/json_checked.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/io/file_handle.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

constexpr size_t kQuotedBytes = 80;

std::string place_of(std::string_view text, size_t offset) {
  offset = std::min(offset, text.size());
  const std::string_view before = text.substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = newline == std::string_view::npos ? offset + 1 : offset - newline;
  return fmt::format("line {}, column {}", line, column);
}

// The parser's own words without its prefix and without raw bytes of the file.
std::string plain_reason(const std::string& what) {
  std::string reason = what;
  if (const size_t at = reason.find("parse error at "); at != std::string::npos) {
    const size_t colon = reason.find(": ", at);
    if (colon != std::string::npos) reason = reason.substr(colon + 2);
  }
  if (const size_t at = reason.find("; last read"); at != std::string::npos) {
    const size_t expected = reason.find("; expected", at);
    const std::string tail = expected == std::string::npos ? "" : reason.substr(expected);
    reason = reason.substr(0, at) + tail;
  }
  std::string out;
  for (char c : reason.substr(0, 160)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out;
}

// Refuses while the document is being read, before it can grow.
class Guard {
 public:
  Guard(int max_depth, const std::string& where) : max_depth_(max_depth), where_(where) {}

  bool operator()(int /*depth*/, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      keys_.emplace_back();
      if (keys_.size() > static_cast<size_t>(max_depth_))
        fail(ExitCode::corrupt, "{}: nested deeper than {} levels", where_, max_depth_);
    } else if (event == Event::object_end || event == Event::array_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second)
        fail(ExitCode::corrupt, "{}: the key {} occurs twice", where_, in_quotes(key));
    }
    return true;
  }

 private:
  int max_depth_;
  const std::string& where_;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (char c : text.substr(0, kQuotedBytes)) {
    if (c >= 0x20 && c < 0x7f)
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out + (text.size() > kQuotedBytes ? "...'" : "'");
}

std::string shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array() && value.size() > 8) return fmt::format("a list of {}", value.size());
  if (value.is_array() &&
      std::any_of(value.begin(), value.end(), [](const auto& e) { return e.is_structured(); }))
    return "a nested list";
  // ensure_ascii keeps it printable; the text was checked to be UTF-8 when it was parsed.
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kQuotedBytes) text = text.substr(0, kQuotedBytes) + "...";
  return text;
}

nlohmann::json parse_json_checked(std::string_view text, int max_depth, const std::string& where) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
    fail(ExitCode::corrupt, "{}: empty; expected JSON", where);
  if (const size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    fail(ExitCode::corrupt, "{}: not UTF-8 at byte {} ({})", where, at, place_of(text, at));
  // The parser takes a NUL byte for the end of its input and would not see what follows.
  if (const size_t at = text.find('\0'); at != std::string_view::npos)
    fail(ExitCode::corrupt, "{}: malformed JSON at {}: a NUL byte", where, place_of(text, at));
  try {
    return nlohmann::json::parse(text.begin(), text.end(), Guard(max_depth, where));
  } catch (const nlohmann::json::parse_error& e) {
    const size_t at = e.byte == 0 ? 0 : e.byte - 1;
    fail(ExitCode::corrupt, "{}: malformed JSON at {}: {}", where, place_of(text, at),
         plain_reason(e.what()));
  } catch (const nlohmann::json::exception& e) {  // a number out of range
    fail(ExitCode::corrupt, "{}: malformed JSON: {}", where, plain_reason(e.what()));
  }
}

std::string read_file_checked(const std::filesystem::path& file, size_t max_bytes) {
  const FileHandle handle = FileHandle::open_regular(file);
  const uint64_t size = handle.size();
  if (size > max_bytes)
    fail(ExitCode::corrupt, "{}: {} bytes, more than the {} such a file can have", file.string(),
         size, max_bytes);
  std::string text(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(handle.fd(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      fail(ExitCode::corrupt, "{}: cannot be read: {}", file.string(), std::strerror(errno));
    if (got == 0) fail(ExitCode::corrupt, "{}: became shorter while it was read", file.string());
    done += static_cast<size_t>(got);
  }
  return text;
}

}  // namespace longhaul::io
