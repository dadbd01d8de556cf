// Prompt files: the first byte says whether lines or one list follow.

#include "runtime/core/log.h"
#include "runtime/io/byte_tokenizer.h"
#include "runtime/io/prompts.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {

std::vector<std::string> seeds() {
  return {
      "[[[1,2,3],[4],[255,0]]",
      "[\xEF\xBB\xBF[[ 7 ],\r\n[8,\t9]]\n",
      "[[[0,-1],[256],[1.0],[]]",
      "{{\"id\":\"a\",\"text\":\"hello "
      "\\u00e9\\ud83d\\ude00\",\"answer\":\"x\"}\n{\"tokens\":[1,2,3]}\n",
      "{{\"tokens\":[1],\"id\":17,\"more\":{\"tokens\":[[\"x\"]]}}\r\n\r\n{\"text\":"
      "\"\xE3\x81\x82\",\"id\":null}",
      "{{\"text\":\"a\",\"answer\":5,\"note\":[[[{}]]]}\n\n{\"tokens\":null,\"text\":\"b\"}\n",
  };
}

std::vector<std::string> words() {
  return {"\"tokens\":", "\"text\":", "\"id\":", "\"answer\":", "[",
          "]",           "{",         "}",       ",",           ":",
          "\n",          "\r\n",      "null",    "true",        "NaN",
          "-1",          "256",       "1e3",     "1e999",       "18446744073709551616",
          "0.5",         "\"\"",      "\\ud800", "\\u0000",     "\xFF",
          "\xC3",        "[[",        "]]",      "[[[[[[[[",    "{}",
          "\"",          "\\"};
}

void repair(std::string& input) {
  if (!input.empty() && input[0] != '[' && input[0] != '{') input[0] = '{';
}

}  // namespace longhaul::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  spdlog::set_level(spdlog::level::off);
  fuzz::expect_clean([&] {
    const std::string_view text = fuzz::text_of(data, size);
    const bool list = !text.empty() && text[0] == '[';
    const io::ByteTokenizer tokenizer;
    const std::vector<io::Prompt> prompts = io::parse_prompts(
        text.substr(text.empty() ? 0 : 1),
        list ? io::PromptFormat::json : io::PromptFormat::json_lines, "f", &tokenizer, 256);
    fuzz::require(!prompts.empty(), "no prompts");
    for (const io::Prompt& prompt : prompts) {
      fuzz::require(!prompt.tokens.empty(), "an empty prompt");
      for (const int32_t id : prompt.tokens) fuzz::require(id >= 0 && id < 256, "an id outside");
      if (prompt.text) fuzz::require(tokenizer.encode(*prompt.text, true) == prompt.tokens, "text");
    }
  });
  return 0;
}
