#include "runtime/io/pattern_characters.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/core/check.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

std::string ranges_in_class(std::span<const CodeRange> ranges) {
  std::string text;
  for (const CodeRange& range : ranges) {
    text += code_in_pattern(range.first);
    if (range.last > range.first) text.append("-").append(code_in_pattern(range.last));
  }
  return text;
}

// Members of a class that is not negated: the property as PCRE2 knows it, and what is newer.
std::string property_in_class(std::string_view name) {
  std::string text = fmt::format("\\p{{{}}}", name);
  for (const CategoryRange& range : newer_categories()) {
    if (!std::string_view(range.category).starts_with(name)) continue;
    const CodeRange codes[] = {{range.first, range.last}};
    text += ranges_in_class(codes);
  }
  return text;
}

}  // namespace

bool is_ascii_letter(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_digit(char32_t c) {
  return c >= '0' && c <= '9';
}

std::string code_in_pattern(char32_t code) {
  if (is_ascii_letter(code) || is_digit(code)) return std::string(1, static_cast<char>(code));
  return fmt::format("\\x{{{:X}}}", static_cast<uint32_t>(code));
}

std::string CharacterSet::pattern() const {
  if (complements.empty()) return fmt::format("[{}{}]", negated ? "^" : "", members);
  std::string any;
  for (const std::string& complement : complements) {
    any += fmt::format("{}[^{}]", any.empty() ? "" : "|", complement);
  }
  if (!members.empty()) any += fmt::format("|[{}]", members);
  return negated ? fmt::format("(?:(?!{})[\\x{{0}}-\\x{{10FFFF}}])", any)
                 : fmt::format("(?:{})", any);
}

void CharacterReader::refuse(std::string_view what, size_t place) const {
  fail(ExitCode::usage, "{} at byte {} of the pattern is not supported", what, place);
}

// \s \d \w \h, \p{..} and their complements; nothing is consumed where none of them stands.
std::optional<CharacterSet> CharacterReader::set_escape(bool in_class) {
  const char c = in_[at_ + 1];
  const bool upper = c >= 'A' && c <= 'Z';
  switch (c) {
    case 's':
    case 'S':
      at_ += 2;
      return CharacterSet{ranges_in_class(white_space()), upper, {}};
    case 'd':
    case 'D':
      at_ += 2;
      return CharacterSet{property_in_class("Nd"), upper, {}};
    case 'h':
    case 'H':
      at_ += 2;
      return CharacterSet{"0-9a-fA-F", upper, {}};
    case 'w':
    case 'W': {
      at_ += 2;
      // Outside of classes, and only there, Oniguruma counts the superscripts and fractions of
      // Latin-1 as well.
      static constexpr CodeRange kLatin[] = {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}};
      return CharacterSet{property_in_class("L") + property_in_class("M") +
                              property_in_class("Nd") + property_in_class("Nl") +
                              property_in_class("Pc") + ranges_in_class(alphabetic_symbols()) +
                              (in_class ? "" : ranges_in_class(kLatin)),
                          upper,
                          {}};
    }
    case 'p':
    case 'P':
      return property_escape();
    default:
      return std::nullopt;
  }
}

CharacterSet CharacterReader::property_escape() {
  const size_t place = at_;
  bool negated = in_[at_ + 1] == 'P';
  const size_t close = in_.find('}', at_);
  if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) {
    refuse("a property without {...}", place);
  }
  std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
  if (name.starts_with('^')) {
    negated = !negated;
    name.remove_prefix(1);
  }
  static constexpr std::array<std::string_view, 34> kCategories{
      "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
      "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
      "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
  if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) {
    refuse(fmt::format("the property {}", quoted_excerpt(name)), place);
  }
  at_ = close + 1;
  return {property_in_class(name), negated, {}};
}

// One character written with a backslash.
char32_t CharacterReader::character_escape() {
  const size_t place = at_;
  const char c = in_[at_ + 1];
  at_ += 2;
  switch (c) {
    case 't':
      return '\t';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
      return '\a';
    case 'e':
      return 0x1B;
    case 'x':
      if (at_ < in_.size() && in_[at_] == '{') {
        ++at_;
        const char32_t code = hexadecimal(1, 6, place);
        if (at_ >= in_.size() || in_[at_++] != '}') refuse("\\x{ without one code and }", place);
        return code;
      } else {
        const char32_t code = hexadecimal(2, 2, place);
        if (code >= 0x80) refuse("\\x of a single byte past ASCII", place);
        return code;
      }
    case 'u':
      return hexadecimal(4, 4, place);
    default:
      break;
  }
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 0x80 || is_ascii_letter(byte) || is_digit(byte)) {
    refuse(fmt::format("the escape {}", quoted_excerpt(in_.substr(place, 2))), place);
  }
  return byte;
}

char32_t CharacterReader::hexadecimal(size_t least, size_t most, size_t place) {
  char32_t code = 0;
  size_t count = 0;
  for (; count < most && at_ < in_.size(); ++count, ++at_) {
    const char c = in_[at_];
    const std::string_view digits = "0123456789abcdef";
    const size_t value = digits.find(
        static_cast<char>(is_ascii_letter(static_cast<unsigned char>(c)) ? c | 0x20 : c));
    if (value == std::string_view::npos) break;
    code = code * 16 + static_cast<char32_t>(value);
  }
  if (count < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
    refuse("an escape that names no character", place);
  }
  return code;
}

// What follows '[' up to its ']'.
CharacterSet CharacterReader::bracket_class(size_t place) {
  CharacterSet whole;
  if (at_ < in_.size() && in_[at_] == '^') {
    whole.negated = true;
    ++at_;
  }
  bool first = true;
  for (; at_ < in_.size() && (first || in_[at_] != ']'); first = false) {
    if (in_[at_] == ']') refuse("] at the start of a class", at_);
    if (in_[at_] == '[') refuse("a class inside a class", at_);
    if (looking_at("&&")) refuse("an intersection of classes (&&)", at_);
    if (in_[at_] == '\\' && at_ + 1 < in_.size()) {
      const size_t start = at_;
      if (const auto set = set_escape(true)) {
        if (looking_at("-") && !looking_at("-]")) refuse("a range that starts with a set", start);
        if (set->negated) {
          whole.complements.push_back(set->members);
        } else {
          whole.members += set->members;
        }
        continue;
      }
    }
    class_range(whole);
  }
  if (at_ >= in_.size()) fail(ExitCode::corrupt, "the class at byte {} is not closed", place);
  if (whole.members.empty() && whole.complements.empty()) refuse("an empty class", place);
  ++at_;
  return whole;
}

// One character of a class, or two with a hyphen between.
void CharacterReader::class_range(CharacterSet& whole) {
  const size_t place = at_;
  const char32_t low = class_character();
  whole.members += code_in_pattern(low);
  if (!looking_at("-") || looking_at("-]") || at_ + 1 >= in_.size()) return;
  if (in_[place] == '-') refuse("a range that starts with a plain hyphen", place);
  ++at_;
  if (in_[at_] == '[' || looking_at("&&")) refuse("a range that ends in a class", place);
  if (in_[at_] == '\\' && at_ + 1 < in_.size() && set_escape(true)) {
    refuse("a range that ends in a set", place);
  }
  const char32_t high = class_character();
  if (high < low) fail(ExitCode::corrupt, "the range at byte {} runs backwards", place);
  whole.members.append("-").append(code_in_pattern(high));
  if (looking_at("-") && !looking_at("-]")) refuse("a hyphen after a range", at_);
}

char32_t CharacterReader::class_character() {
  if (in_[at_] == '\\') {
    if (at_ + 1 >= in_.size()) fail(ExitCode::corrupt, "the pattern ends in a backslash");
    return character_escape();
  }
  const CodePoint point = code_point_at(in_, at_);
  at_ += static_cast<size_t>(point.length);
  return point.value;
}

}  // namespace longhaul::io
