// A split pattern, a newline, and the text to cut.

#include "runtime/io/pretokenizer.h"
#include "runtime/io/utf8.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {

std::vector<std::string> seeds() {
  const std::string text =
      "\nI'LL pay 1234!!  \r\n caf\xC3\xA9 \xE3\x81\x82 e\xCC\x81\xF0\x9F\x98\x80\t";
  return {
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)" +
          text,
      R"('s| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)" + text,
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|(?>\h\x41)\u00e9*+)" + text,
      R"((?<=a)b|(?<!c)d|\A.|.\z|^(?:e|f)$|\x{1F600}{,3})" + text,
      R"((a+a+)+[0-9])"
      "\n" +
          std::string(60, 'a'),
  };
}

std::vector<std::string> words() {
  return {"(",           ")",
          "[",           "]",
          "(?:",         "(?=",
          "(?<!",        "(?>",
          "(?i)",        "(?i:",
          "|",           "*",
          "+",           "?",
          "{2,3}",       "{,9}",
          "{0}",         "{999}",
          "^",           "$",
          ".",           "\\p{L}",
          "\\P{Lu}",     "\\s",
          "\\S",         "\\w",
          "\\W",         "\\d",
          "\\h",         "[^\\S\\n]",
          "[\\D]",       "-",
          "&&",          "\\",
          "\\x{10FFFF}", "\\u",
          "\\b",         "\\A",
          "\\Z",         "(.*)*",
          "(a|a)+",      "\xE3\x81\x82",
          "\xFF",        "\n",
          " ",           "aaaaaaaaaaaaaaaa"};
}

void repair(std::string&) {}

}  // namespace longhaul::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  fuzz::expect_clean([&] {
    const std::string_view input = fuzz::text_of(data, size);
    const size_t newline = input.find('\n');
    const std::string text = newline == std::string_view::npos
                                 ? ""
                                 : io::replace_invalid_utf8(input.substr(newline + 1));
    io::Pretokenizer steps;
    steps.add_split(io::SplitRegex(input.substr(0, newline)), io::Pretokenizer::Behavior::isolated,
                    false);
    std::string joined;
    io::Pretokenizer::Run(steps).words(text, [&](std::string_view word) {
      fuzz::require(!word.empty() && io::find_invalid_utf8(word) == std::string_view::npos,
                    "a word that is empty or cuts a character");
      joined += word;
    });
    fuzz::require(joined == text, "words that are not the text");
  });
  return 0;
}
