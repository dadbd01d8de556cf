#include "runtime/io/split_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/unicode_tables.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

constexpr size_t kMaxPattern = 16384;

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

// One set of characters as members of [...] and whether it is the set's complement that is meant.
struct CharacterSet {
  std::string members;
  bool negated = false;
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    if (in_.size() > kMaxPattern) {
      fail(ExitCode::usage, "the pattern has {} bytes; at most {} are read", in_.size(),
           kMaxPattern);
    }
    if (find_invalid_utf8(in_) != std::string_view::npos) {
      fail(ExitCode::corrupt, "the pattern is not UTF-8");
    }
    groups_.push_back({false});
    while (at_ < in_.size()) element();
    if (groups_.size() > 1) fail(ExitCode::corrupt, "a parenthesis is not closed");
    return std::move(out_);
  }

 private:
  struct Group {
    bool ignore_case;
  };

  [[noreturn]] void refuse(std::string_view what, size_t place) const {
    fail(ExitCode::usage, "{} at byte {} of the pattern is not supported", what, place);
  }
  bool looking_at(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool ignore_case() const { return groups_.back().ignore_case; }

  void element() {
    const size_t place = at_;
    const char c = in_[at_];
    switch (c) {
      case '(':
        return open_group();
      case ')':
        if (groups_.size() == 1)
          fail(ExitCode::corrupt, "a parenthesis closes nothing at byte {}", at_);
        groups_.pop_back();
        ++at_;
        out_ += ')';
        return quantifier(true);
      case '|':
        ++at_;
        out_ += '|';
        previous_ = 0;
        return;
      case '[':
        if (ignore_case()) refuse("a character class inside (?i)", place);
        ++at_;
        emit_set(bracket_class(place));
        return quantifier(true);
      case '.':
        ++at_;
        out_ += "[^\\n]";
        previous_ = 0;
        return quantifier(true);
      case '^':
      case '$':
        // Ruby's are always those of lines.
        ++at_;
        out_ += c == '^' ? "(?m:^)" : "(?m:$)";
        return quantifier(false);
      case '*':
      case '+':
      case '?':
        refuse(fmt::format("a quantifier ({}) after nothing it could repeat", c), place);
      case '\\':
        return escape();
      default:
        break;
    }
    const CodePoint point = code_point_at(in_, at_);
    at_ += static_cast<size_t>(point.length);
    literal(point.value, place);
  }

  void open_group() {
    const size_t place = at_;
    bool ignore = ignore_case();
    if (looking_at("(?i)")) {
      // Ruby lets it reach over the alternatives that follow, PCRE2 too, but only from the start of
      // a group do both mean the same.
      if (!out_.empty() && !out_.ends_with("(?:")) refuse("(?i) in the middle of a group", place);
      groups_.back().ignore_case = true;
      at_ += 4;
      out_ += "(?i)";
      return;
    }
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kGroups{
        {{"(?:", "(?:"},
         {"(?i:", "(?i:"},
         {"(?=", "(?="},
         {"(?!", "(?!"},
         {"(?<=", "(?<="},
         {"(?<!", "(?<!"},
         {"(?>", "(?>"}}};
    const auto known = std::find_if(kGroups.begin(), kGroups.end(),
                                    [&](const auto& group) { return looking_at(group.first); });
    if (known != kGroups.end()) {
      at_ += known->first.size();
      out_ += known->second;
      ignore = ignore || known->first == "(?i:";
    } else if (looking_at("(?")) {
      refuse(fmt::format("the group {}", quoted_excerpt(in_.substr(at_, 4))), place);
    } else {
      ++at_;
      out_ += "(?:";  // nothing here reads what a group captured
    }
    groups_.push_back({ignore});
  }

  void literal(char32_t code, size_t place) {
    if (ignore_case()) check_case_folding(code, place);
    out_ += code_in_pattern(code);
    quantifier(true);
  }

  // Oniguruma folds strings, not characters: (?i:ss) matches the German sharp s, (?i:fi) a
  // ligature. What could fold so is refused; the contractions of English cannot.
  void check_case_folding(char32_t code, size_t place) {
    if (code >= 0x80) refuse("a character past ASCII inside (?i)", place);
    const char32_t lower = is_ascii_letter(code) ? (code | 0x20) : code;
    const std::u32string pair{previous_, lower};
    for (const char32_t* folded : {U"ss", U"st", U"ff", U"fi", U"fl"}) {
      if (pair == folded) refuse("a string with special case folding inside (?i)", place);
    }
    previous_ = lower;
    if (at_ < in_.size() && std::string_view("*+{").find(in_[at_]) != std::string_view::npos) {
      refuse("a repeated letter inside (?i)", at_);
    }
  }

  void emit_set(const CharacterSet& set) {
    out_.append(set.negated ? "[^" : "[").append(set.members).append("]");
    previous_ = 0;
  }

  // Copies the quantifier that follows, if one does.
  void quantifier(bool repeatable) {
    if (at_ >= in_.size()) return;
    const size_t place = at_;
    bool interval = false;
    if (std::string_view("*+?").find(in_[at_]) != std::string_view::npos) {
      out_ += in_[at_++];
    } else if (in_[at_] == '{') {
      const std::optional<std::string> bounds = read_interval();
      if (!bounds) return;
      out_ += *bounds;
      interval = true;
    } else {
      return;
    }
    if (!repeatable) refuse("a quantifier after an anchor", place);
    if (at_ < in_.size() && (in_[at_] == '?' || in_[at_] == '+')) {
      // Ruby reads {2}? as optional and {2}+ as repeated; PCRE2 as lazy and possessive.
      if (interval) refuse("a quantifier after {...}", at_);
      out_ += in_[at_++];
    }
    if (at_ < in_.size() && std::string_view("*+?").find(in_[at_]) != std::string_view::npos) {
      refuse("a quantifier after a quantifier", at_);
    }
    if (at_ < in_.size() && in_[at_] == '{' && read_interval()) {
      refuse("a quantifier after a quantifier", place);
    }
    previous_ = 0;
  }

  // {n} {n,} {,m} {n,m}; anything else is a plain brace, and nothing is consumed.
  std::optional<std::string> read_interval() {
    size_t at = at_ + 1;
    const auto number = [&] {
      std::string digits;
      while (at < in_.size() && is_digit(static_cast<unsigned char>(in_[at]))) digits += in_[at++];
      return digits;
    };
    const std::string low = number();
    const bool comma = at < in_.size() && in_[at] == ',';
    if (comma) ++at;
    const std::string high = comma ? number() : "";
    if (at >= in_.size() || in_[at] != '}' || (low.empty() && high.empty())) return std::nullopt;
    if (low.size() > 3 || high.size() > 3) refuse("a repetition past 999 times", at_);
    const int from = low.empty() ? 0 : std::stoi(low);
    // Ruby turns {5,2} around and makes it possessive.
    if (!high.empty() && std::stoi(high) < from) refuse("a repetition from more to less", at_);
    at_ = at + 1;
    if (!comma) return fmt::format("{{{}}}", from);
    return fmt::format("{{{},{}}}", from, high);
  }

  void escape() {
    const size_t place = at_;
    if (at_ + 1 >= in_.size()) fail(ExitCode::corrupt, "the pattern ends in a backslash");
    const char c = in_[at_ + 1];
    if (c == 'A' || c == 'z' || c == 'Z') {
      at_ += 2;
      out_ += fmt::format("\\{}", c);
      return quantifier(false);
    }
    if (const auto set = set_escape()) {
      if (ignore_case()) refuse("a character class inside (?i)", place);
      emit_set(*set);
      return quantifier(true);
    }
    literal(character_escape(), place);
  }

  // \s \d \w \h, \p{..} and their complements; nothing is consumed where none of them stands.
  std::optional<CharacterSet> set_escape() {
    const char c = in_[at_ + 1];
    const bool upper = c >= 'A' && c <= 'Z';
    switch (c) {
      case 's':
      case 'S':
        at_ += 2;
        return CharacterSet{ranges_in_class(white_space()), upper};
      case 'd':
      case 'D':
        at_ += 2;
        return CharacterSet{property_in_class("Nd"), upper};
      case 'h':
      case 'H':
        at_ += 2;
        return CharacterSet{"0-9a-fA-F", upper};
      case 'w':
      case 'W': {
        at_ += 2;
        // Oniguruma counts the superscripts and fractions of Latin-1 as well.
        static constexpr CodeRange kLatin[] = {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}};
        return CharacterSet{property_in_class("L") + property_in_class("M") +
                                property_in_class("Nd") + property_in_class("Nl") +
                                property_in_class("Pc") + ranges_in_class(kLatin) +
                                ranges_in_class(alphabetic_symbols()),
                            upper};
      }
      case 'p':
      case 'P':
        return property_escape();
      default:
        return std::nullopt;
    }
  }

  CharacterSet property_escape() {
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
    return {property_in_class(name), negated};
  }

  // One character written with a backslash.
  char32_t character_escape() {
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

  char32_t hexadecimal(size_t least, size_t most, size_t place) {
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
  CharacterSet bracket_class(size_t place) {
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
        if (const auto set = set_escape()) {
          if (set->negated) refuse("a negated set inside a class", start);
          if (looking_at("-") && !looking_at("-]")) refuse("a range that starts with a set", start);
          whole.members += set->members;
          continue;
        }
      }
      class_range(whole);
    }
    if (at_ >= in_.size()) fail(ExitCode::corrupt, "the class at byte {} is not closed", place);
    if (whole.members.empty()) refuse("an empty class", place);
    ++at_;
    return whole;
  }

  // One character of a class, or two with a hyphen between.
  void class_range(CharacterSet& whole) {
    const size_t place = at_;
    const char32_t low = class_character();
    whole.members += code_in_pattern(low);
    if (!looking_at("-") || looking_at("-]") || at_ + 1 >= in_.size()) return;
    if (in_[place] == '-') refuse("a range that starts with a plain hyphen", place);
    ++at_;
    if (in_[at_] == '[' || looking_at("&&")) refuse("a range that ends in a class", place);
    if (in_[at_] == '\\' && at_ + 1 < in_.size() && set_escape()) {
      refuse("a range that ends in a set", place);
    }
    const char32_t high = class_character();
    if (high < low) fail(ExitCode::corrupt, "the range at byte {} runs backwards", place);
    whole.members.append("-").append(code_in_pattern(high));
    if (looking_at("-") && !looking_at("-]")) refuse("a hyphen after a range", at_);
  }

  char32_t class_character() {
    if (in_[at_] == '\\') {
      if (at_ + 1 >= in_.size()) fail(ExitCode::corrupt, "the pattern ends in a backslash");
      return character_escape();
    }
    const CodePoint point = code_point_at(in_, at_);
    at_ += static_cast<size_t>(point.length);
    return point.value;
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  std::vector<Group> groups_;
  char32_t previous_ = 0;  // the letter just matched inside (?i), lower case
};

}  // namespace

std::string translate_split_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace longhaul::io
