#include "runtime/io/utf8.h"

#include <cstdlib>

namespace longhaul::io {

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return {lead, 1};
  int more = 0;
  // The second byte's range depends on the first; this is where overlong forms, surrogates and
  // values past U+10FFFF fall out (Unicode 15, table 3-7).
  unsigned low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    more = 1;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    more = 2;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    more = 3;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {0, -1};
  }
  char32_t value = lead & (0x3Fu >> more);
  for (int i = 1; i <= more; ++i) {
    const size_t next = at + static_cast<size_t>(i);
    if (next >= text.size() || byte(next) < low || byte(next) > high) return {0, -i};
    value = (value << 6) | (byte(next) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {value, more + 1};
}

CodePoint code_point_before(std::string_view text, size_t at) {
  size_t start = at - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return code_point_at(text, start);
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const int length = code_point_at(text, at).length;
    if (length < 0) return at;
    at += static_cast<size_t>(length);
  }
  return std::string_view::npos;
}

void append_utf8(std::string& text, char32_t value) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | (value >> 6));
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const int length = code_point_at(text, at).length;
    const auto bytes = static_cast<size_t>(std::abs(length));
    if (length > 0) {
      valid.append(text.substr(at, bytes));
    } else {
      append_utf8(valid, 0xFFFD);
    }
    at += bytes;
  }
  return valid;
}

}  // namespace longhaul::io
