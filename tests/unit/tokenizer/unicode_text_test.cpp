// UTF-8, normalization and white space, below the tokenizer.
#include <gtest/gtest.h>

#include "runtime/io/nfc.h"
#include "runtime/io/unicode_tables.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

TEST(Utf8, RoundTripsEveryScalarValue) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const CodePoint read = code_point_at(text, 0);
    ASSERT_EQ(read.value, code);
    ASSERT_EQ(read.length, static_cast<int>(text.size()));
    ASSERT_EQ(code_point_before(text, text.size()).value, code);
    ASSERT_EQ(find_invalid_utf8(text), std::string::npos);
    ASSERT_EQ(replace_invalid_utf8(text), text);
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r = "\xEF\xBF\xBD";
  const auto check = [](const std::string& given, const std::string& expected, size_t bad) {
    EXPECT_EQ(replace_invalid_utf8(given), expected);
    EXPECT_EQ(find_invalid_utf8(given), bad);
  };
  check("a\x80z", "a" + r + "z", 1);
  check("\xC0\xAF", r + r, 0);                  // overlong
  check("\xE0\x80\xAF", r + r + r, 0);          // overlong
  check("\xED\xA0\x80", r + r + r, 0);          // a surrogate
  check("\xF4\x90\x80\x80", r + r + r + r, 0);  // past U+10FFFF
  check(
      "\xF1\x80\x80\xE1\x80\xC2"
      "b",
      r + r + r + "b", 0);
  check("ok\xE3\x81", "ok" + r, 2);  // cut short
  check("\xF0\x9F\x98", r, 0);
  check("\xFF\xFE", r + r, 0);
  check("", "", std::string::npos);
}

TEST(Nfc, ComposesAsThePackageDoes) {
  EXPECT_EQ(normalize_nfc("plain"), "plain");
  EXPECT_EQ(normalize_nfc("cafe\xCC\x81!"), "caf\xC3\xA9!");
  EXPECT_EQ(normalize_nfc("\xE2\x84\xAB"), "\xC3\x85");  // Angstrom sign
  EXPECT_EQ(normalize_nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8"), "\xEA\xB0\x81");  // Hangul
  EXPECT_EQ(normalize_nfc("q\xCC\x87\xCC\xA3"), "q\xCC\xA3\xCC\x87");                // reordered
  EXPECT_EQ(normalize_nfc("\xE0\xA5\x98"), "\xE0\xA4\x95\xE0\xA4\xBC");              // excluded
  // A syllable and U+11A7, which is no final consonant.
  EXPECT_EQ(normalize_nfc("\xEA\xB0\x80\xE1\x86\xA7"), "\xEA\xB0\x80\xE1\x86\xA7");
  // U+08CA has class 230 since Unicode 14; to the package nothing moves past it.
  EXPECT_EQ(normalize_nfc("a\xE0\xA3\x8A\xCC\xB4"), "a\xE0\xA3\x8A\xCC\xB4");
  // U+11938 is composed since Unicode 13.
  EXPECT_EQ(normalize_nfc("\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0"), "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0");
  EXPECT_EQ(normalize_nfc("\xF0\x91\xA4\xB8"), "\xF0\x91\xA4\xB8");
  // An inert code point among marks keeps both sides apart.
  EXPECT_EQ(normalize_nfc("e\xCC\x81\xE0\xA2\x97\xCC\x81"), "\xC3\xA9\xE0\xA2\x97\xCC\x81");
}

TEST(Unicode, CategoriesDoNotDependOnTheLibrary) {
  EXPECT_EQ(general_category('A'), "Lu");
  EXPECT_EQ(general_category(0x31350), "Lo");  // Unicode 15.0
  EXPECT_EQ(general_category(0x10D40), "Nd");  // Unicode 16.0
  EXPECT_EQ(general_category(0x1171E), "Mc");  // was Mn
  int spaces = 0;
  for (char32_t code = 0; code < 0x110000; ++code) spaces += is_white_space(code) ? 1 : 0;
  EXPECT_EQ(spaces, 25);
  EXPECT_TRUE(is_word_character('_') && is_word_character(0x301) && is_word_character(0x200D) &&
              is_word_character(0x24B6) && is_word_character(0x2167) && is_word_character(0x663));
  EXPECT_FALSE(is_word_character('-') || is_word_character(0xB2) || is_word_character(0x2460) ||
               is_word_character(0x20) || is_word_character(0x1F600));
}

}  // namespace
}  // namespace longhaul::io
