// Split patterns written for Oniguruma: random ones against what the `tokenizers` package cut with
// them (tests/data/tokenizer/make_patterns.py), and what is refused.
#include "runtime/io/split_pattern.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/io/json_lines.h"
#include "runtime/io/pretokenizer.h"
#include "tests/unit/tokenizer/failure.h"

namespace longhaul::io {
namespace {

using nlohmann::json;

std::vector<std::string> cut(const Pretokenizer& steps, const std::string& text) {
  std::vector<std::string> pieces;
  Pretokenizer::Run(steps).words(text, [&](std::string_view word) { pieces.emplace_back(word); });
  return pieces;
}

std::vector<std::string> cut(const std::string& pattern, const std::string& text) {
  Pretokenizer steps;
  steps.add_split(SplitRegex(pattern), Pretokenizer::Behavior::isolated, false);
  return cut(steps, text);
}

TEST(SplitPattern, RandomPatternsCutAsOnigurumaDoes) {
  const std::string lines = read_text_file(LONGHAUL_TEST_DATA "/tokenizer/patterns.jsonl");
  int patterns = 0, refused = 0, different = 0;
  for_each_line(lines, [&](std::string_view line, int64_t number) {
    const json given = json::parse(line);
    ++patterns;
    Pretokenizer steps;
    const Failure failure = failure_of([&] {
      steps.add_split(
          SplitRegex(given["p"].get<std::string>()),
          given["r"] ? Pretokenizer::Behavior::removed : Pretokenizer::Behavior::isolated,
          given["i"]);
    });
    if (failure.code != 0) {
      EXPECT_EQ(failure.code, 2) << failure.message;
      ++refused;
      return;
    }
    for (const json& one : given["c"]) {
      const json pieces = cut(steps, one[0]);
      if (pieces == one[1]) continue;
      if (++different <= 5) {
        ADD_FAILURE() << "line " << number << ": " << given["p"].dump(-1, ' ', true) << " cuts "
                      << one[0].dump(-1, ' ', true) << " into " << pieces.dump(-1, ' ', true)
                      << ", not " << one[1].dump(-1, ' ', true);
      }
    }
  });
  EXPECT_EQ(patterns, 1500);
  EXPECT_EQ(different, 0);
  // Refusing is right only for what differs: loops over nothing, all of these.
  EXPECT_LE(refused, 90);
}

TEST(SplitPattern, MeansWhatOnigurumaMeans) {
  using Pieces = std::vector<std::string>;
  // U+0085 is white space, U+180E and U+200B are not.
  EXPECT_EQ(cut(R"(\s+)", "a\xC2\x85 b"), (Pieces{"a", "\xC2\x85 ", "b"}));
  EXPECT_EQ(cut(R"(\s+)",
                "a\xE1\xA0\x8E"
                "b\xE2\x80\x8B"),
            (Pieces{"a\xE1\xA0\x8E"
                    "b\xE2\x80\x8B"}));
  // Kelvin sign and long s.
  EXPECT_EQ(cut("(?i:k|'s)", "a\xE2\x84\xAA'\xC5\xBF"), (Pieces{"a", "\xE2\x84\xAA", "'\xC5\xBF"}));
  // Letters of Unicode 15 and 16, digits of Garay (16).
  EXPECT_EQ(cut(R"(\p{L}+)",
                "1\xF0\xB1\x8D\x90"
                "1"),
            (Pieces{"1", "\xF0\xB1\x8D\x90", "1"}));
  EXPECT_EQ(cut(R"(\p{N}{1,3})", "a\xF0\x90\xB5\x80\xF0\x90\xB5\x81"),
            (Pieces{"a", "\xF0\x90\xB5\x80\xF0\x90\xB5\x81"}));
  EXPECT_EQ(cut(R"([^\S\n]+)", "a \n b"), (Pieces{"a", " ", "\n", " ", "b"}));
  EXPECT_EQ(cut("^a", "ab\nab"), (Pieces{"a", "b\n", "a", "b"}));
  EXPECT_EQ(cut("a{,2}", "aaab"), (Pieces{"aa", "a", "b"}));
  EXPECT_EQ(cut(R"(\h+)", "xyzfF09"), (Pieces{"xyz", "fF09"}));
  EXPECT_EQ(cut("", "ab"), (Pieces{"a", "b"}));
  EXPECT_EQ(cut("{a}|x{", "{a}x{"), (Pieces{"{a}", "x{"}));
}

TEST(SplitPattern, RefusesWhatItCannotReadAlike) {
  for (const std::string pattern : {R"(\bword\b)",   R"(\G)",         R"(\K)",
                                    R"(\R)",         R"(\X)",         R"((a)\1)",
                                    R"((?<n>a))",    R"(\k<n>)",      R"((?~a))",
                                    R"((?m:.))",     R"((?x: a))",    R"((?#c))",
                                    R"([a&&b])",     R"([[a]b])",     R"([[:alpha:]])",
                                    R"([]a])",       R"(\p{Han})",    R"(\p{Alphabetic})",
                                    R"(\pL)",        R"((?i:ss))",    R"((?i:fi))",
                                    R"((?i:s+))",    R"((?i:[a-z]))", R"((?i:ß))",
                                    R"(a(?i)b)",     R"(a**)",        R"(a{2}+)",
                                    R"(a{2}?)",      R"(a{3,2})",     R"(a{1000})",
                                    R"(^*)",         R"((a*)*)",      R"((a|)+)",
                                    R"((?=a)+)",     R"(*a)",         R"(\xE9)",
                                    R"(\x{110000})", R"(\x{D800})",   R"(\u12)",
                                    R"(\c1)",        R"([\s-a])",     R"([a-\s])",
                                    R"([a-c-e])",    R"(\123)",       R"(\Q)",
                                    R"((?<=a+)b)"}) {
    const Failure failure = failure_of([&] { SplitRegex{pattern}; });
    EXPECT_EQ(failure.code, 2) << pattern << ": " << failure.message;
  }
  for (const std::string pattern : {"(a", "a)", "[a", "a\\", "[z-a]", "[a\\", "\xFF"}) {
    EXPECT_EQ(failure_of([&] { SplitRegex{pattern}; }).code, 4) << pattern;
  }
  EXPECT_EQ(failure_of([&] { SplitRegex{std::string(20'000, 'a')}; }).code, 2);
  EXPECT_EQ(failure_of([&] { SplitRegex{std::string(1000, '(') + std::string(1000, ')')}; }).code,
            2);
}

TEST(SplitPattern, EndlessBacktrackingIsAnError) {
  const Failure failure = failure_of([] { cut(R"((a+a+)+[0-9])", std::string(64, 'a')); });
  EXPECT_EQ(failure.code, 2);
  EXPECT_TRUE(failure.mentions("match limit")) << failure.message;
}

}  // namespace
}  // namespace longhaul::io
