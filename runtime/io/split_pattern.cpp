#include "runtime/io/split_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/pattern_characters.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

constexpr size_t kMaxPattern = 16384;

class Translator : CharacterReader {
 public:
  explicit Translator(std::string_view pattern) : CharacterReader(pattern) {}

  std::string run() {
    if (in_.size() > kMaxPattern) {
      fail(ExitCode::usage, "the pattern has {} bytes; at most {} are read", in_.size(),
           kMaxPattern);
    }
    if (find_invalid_utf8(in_) != std::string_view::npos) {
      fail(ExitCode::corrupt, "the pattern is not UTF-8");
    }
    groups_.emplace_back();
    while (at_ < in_.size()) element();
    if (groups_.size() > 1) fail(ExitCode::corrupt, "a parenthesis is not closed");
    return std::move(out_);
  }

 private:
  struct Group {
    bool ignore_case = false;
    bool lookaround = false;
    // Whether an alternative that is complete, and the one being read, may match nothing.
    bool may_be_empty = false;
    bool empty_so_far = true;
  };

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
        return close_group();
      case '|':
        ++at_;
        out_ += '|';
        previous_ = 0;
        groups_.back().may_be_empty |= groups_.back().empty_so_far;
        groups_.back().empty_so_far = true;
        return;
      case '[':
        if (ignore_case()) refuse("a character class inside (?i)", place);
        ++at_;
        emit_set(bracket_class(place));
        return quantifier(Repeat::consumes);
      case '.':
        ++at_;
        out_ += "[^\\n]";
        previous_ = 0;
        return quantifier(Repeat::consumes);
      case '^':
      case '$':
        // Ruby's are always those of lines.
        ++at_;
        out_ += c == '^' ? "(?m:^)" : "(?m:$)";
        return quantifier(Repeat::never);
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
    bool lookaround = false;
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
      lookaround = known->first.find_first_of("=!") != std::string_view::npos;
    } else if (looking_at("(?")) {
      refuse(fmt::format("the group {}", quoted_excerpt(in_.substr(at_, 4))), place);
    } else {
      ++at_;
      out_ += "(?:";  // nothing here reads what a group captured
    }
    groups_.push_back({.ignore_case = ignore, .lookaround = lookaround});
  }

  void close_group() {
    const Group group = groups_.back();
    groups_.pop_back();
    ++at_;
    out_ += ')';
    const bool empty = group.lookaround || group.may_be_empty || group.empty_so_far;
    quantifier(empty ? Repeat::may_be_empty : Repeat::consumes);
  }

  void literal(char32_t code, size_t place) {
    if (ignore_case()) check_case_folding(code, place);
    out_ += code_in_pattern(code);
    quantifier(Repeat::consumes);
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
    previous_ = 0;
    out_ += set.pattern();
  }

  // What stands before a quantifier.
  enum class Repeat {
    never,         // an anchor
    may_be_empty,  // a group that may match nothing
    consumes,      // what takes at least one character
  };

  // Copies the quantifier that follows, if one does, and closes the account of one element.
  void quantifier(Repeat what) {
    const size_t place = at_;
    bool interval = false, optional = false, at_least_once = true;
    if (at_ < in_.size() && std::string_view("*+?").find(in_[at_]) != std::string_view::npos) {
      at_least_once = in_[at_] == '+';
      optional = in_[at_] == '?';
      out_ += in_[at_++];
    } else if (const std::optional<Interval> bounds = read_interval()) {
      at_least_once = bounds->from > 0;
      out_ += bounds->text;
      interval = true;
    }
    if (what == Repeat::consumes && at_least_once) groups_.back().empty_so_far = false;
    if (at_ == place) return;
    if (what == Repeat::never) refuse("a quantifier after an anchor", place);
    // The two disagree on when a loop that matches nothing ends.
    if (what == Repeat::may_be_empty && !optional) {
      refuse("the repetition of a group that may match nothing", place);
    }
    if (at_ < in_.size() && (in_[at_] == '?' || in_[at_] == '+')) {
      // Ruby reads {2}? as optional and {2}+ as repeated; PCRE2 as lazy and possessive.
      if (interval) refuse("a quantifier after {...}", at_);
      out_ += in_[at_++];
    }
    const bool another =
        at_ < in_.size() && std::string_view("*+?").find(in_[at_]) != std::string_view::npos;
    if (another || read_interval()) refuse("a quantifier after a quantifier", at_);
    previous_ = 0;
  }

  struct Interval {
    std::string text;  // as PCRE2 reads it
    int from;
  };

  // {n} {n,} {,m} {n,m}; anything else is a plain brace, and nothing is consumed.
  std::optional<Interval> read_interval() {
    if (at_ >= in_.size() || in_[at_] != '{') return std::nullopt;
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
    return Interval{comma ? fmt::format("{{{},{}}}", from, high) : fmt::format("{{{}}}", from),
                    from};
  }

  void escape() {
    const size_t place = at_;
    if (at_ + 1 >= in_.size()) fail(ExitCode::corrupt, "the pattern ends in a backslash");
    const char c = in_[at_ + 1];
    if (c == 'A' || c == 'z' || c == 'Z') {
      at_ += 2;
      out_ += fmt::format("\\{}", c);
      return quantifier(Repeat::never);
    }
    if (const auto set = set_escape(false)) {
      if (ignore_case()) refuse("a character class inside (?i)", place);
      emit_set(*set);
      return quantifier(Repeat::consumes);
    }
    literal(character_escape(), place);
  }

  std::string out_;
  std::vector<Group> groups_;
  char32_t previous_ = 0;  // the letter just matched inside (?i), lower case
};

}  // namespace

std::string translate_split_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace longhaul::io
