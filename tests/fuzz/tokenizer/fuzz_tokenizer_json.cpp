// tokenizer.json. The vocabulary of all bytes, which mutations would only break, stands behind a
// mark that is filled in before parsing.

#include "runtime/core/log.h"
#include "runtime/io/tokenizer_json.h"
#include "runtime/io/utf8.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {
namespace {

constexpr std::string_view kMark = "\"@bytes\":0";

// "!": 33, ...: every byte's character and its id.
const std::string& byte_vocabulary() {
  static const std::string text = [] {
    std::string list;
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      list += b == 0 ? "\"" : ",\"";
      if (b == '"' || b == '\\') list += '\\';
      io::append_utf8(list, printable ? b : next++);
      list += "\":" + std::to_string(b);
    }
    return list;
  }();
  return text;
}

const std::string kHead =
    R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)"
    R"({"id":259,"content":"<s>","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true},)"
    R"({"id":260,"content":"caf\u00e9","single_word":true,"lstrip":false,"rstrip":true,"normalized":true,"special":false}],)";
const std::string kModel =
    R"("model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"",)"
    R"("end_of_word_suffix":"","fuse_unk":false,"byte_fallback":false,"ignore_merges":false,)"
    R"("vocab":{"@bytes":0,"ab":256,"abc":257,"bc":258},"merges":)";
const std::string kByteLevel =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";

}  // namespace

std::vector<std::string> seeds() {
  return {
      kHead +
          R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
          R"({"type":"Split","pattern":{"Regex":"\\p{L}+|\\s+(?!\\S)|[^\\r\\n\\p{N}]{1,3}"},)"
          R"("behavior":"Isolated","invert":false},)" +
          kByteLevel + R"(]},"post_processor":)" + kByteLevel + R"(,"decoder":)" + kByteLevel +
          "," + kModel + R"([["b","c"],["a","b"],["ab","c"]]}})",
      kHead +
          R"("normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,)"
          R"("trim_offsets":true,"use_regex":true},"post_processor":{"type":"Sequence","processors":[)" +
          kByteLevel +
          R"(,{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
          R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>",)"
          R"("ids":[259],"tokens":["<s>"]}}}]},"decoder":)" +
          kByteLevel + "," + kModel + R"(["a b","ab c"]}})",
      kHead +
          R"("normalizer":{"type":"Sequence","normalizers":[]},"pre_tokenizer":{"type":"Sequence",)"
          R"("pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"Split","pattern":)"
          R"({"String":"."},"behavior":"Removed","invert":true},)" +
          kByteLevel + R"(]},"post_processor":null,"decoder":)" + kByteLevel + "," + kModel +
          "[]}}",
  };
}

std::vector<std::string> words() {
  return {"null",
          "true",
          "false",
          "0",
          "-1",
          "1.5",
          "2147483647",
          "4294967296",
          "\"\"",
          "{}",
          "[]",
          "[[",
          "\"type\":\"NFC\"",
          "\"type\":\"Sequence\"",
          "\"WordPiece\"",
          "\"Removed\"",
          "\"Isolated\"",
          "\"ab\"",
          "\"a b\"",
          "\"abc\":3",
          "\"ignore_merges\":true",
          "\"String\"",
          "\"Regex\"",
          "(a+)+",
          "\\\\s",
          "\\\\p{L}",
          "[^",
          "\\u0301",
          "\\ud800",
          "\xC3\xA9",
          "\xFF",
          "\"content\":\"a\"",
          "\"lstrip\":true",
          "\"special\":true",
          "\"normalized\":true",
          ",",
          ":",
          "\""};
}

void repair(std::string&) {}

}  // namespace longhaul::fuzz

namespace {

void parse_and_use(std::string text) {
  using namespace longhaul;
  if (const size_t at = text.find(fuzz::kMark); at != std::string::npos) {
    text.replace(at, fuzz::kMark.size(), fuzz::byte_vocabulary());
  }
  const auto tokenizer = io::parse_tokenizer_json(text, "f");
  for (const char* given :
       {"", "abcab <s>  a.1b", "x caf\xC3\xA9  cafe\xCC\x81 12\r\n  y", "<s><s>"}) {
    const std::vector<int32_t> ids = tokenizer->encode(given);
    for (const int32_t id : ids) fuzz::require(id >= 0, "a negative id");
    const std::string decoded = tokenizer->decode(ids, false);
    fuzz::require(io::find_invalid_utf8(decoded) == std::string::npos, "text that is not UTF-8");
  }
}

// The seeds themselves are good, or the mutations would not reach far.
bool start() {
  spdlog::set_level(spdlog::level::off);
  for (const std::string& seed : longhaul::fuzz::seeds()) parse_and_use(seed);
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  [[maybe_unused]] static const bool started = start();
  longhaul::fuzz::expect_clean(
      [&] { parse_and_use(std::string(longhaul::fuzz::text_of(data, size))); });
  return 0;
}
