// tokenizer.json: what its fields do, by hand, and what is refused.
#include "runtime/io/tokenizer_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/io/json_lines.h"
#include "runtime/io/utf8.h"
#include "tests/unit/tokenizer/failure.h"

namespace longhaul::io {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

// 256 bytes with their values as ids, then "ab" 256, "abc" 257, "bc" 258, "\xC4\xA0x" (space, x)
// 259.
json small() {
  json vocab;
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    std::string token;
    append_utf8(token, printable ? b : next++);
    vocab[token] = b;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab["bc"] = 258;
  vocab["\xC4\xA0x"] = 259;
  const json byte_level{{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  return {{"version", "1.0"},
          {"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "a b", "ab c", "\xC4\xA0 x"}}}}};
}

json added(const std::string& content, int id, bool special = false) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

std::unique_ptr<Tokenizer> parse(const json& file) {
  return parse_tokenizer_json(file.dump(), "t");
}
Ids encode(const json& file, const std::string& text) {
  return parse(file)->encode(text);
}

TEST(TokenizerJson, MergesByRank) {
  EXPECT_EQ(encode(small(), "abc ab x"), (Ids{'a', 258, ' ', 256, 259}));
  json file = small();
  file["model"]["merges"] = json::array({json{"a", "b"}, json{"ab", "c"}, json{"b", "c"}});
  EXPECT_EQ(encode(file, "abcbc"), (Ids{257, 258}));
  // Of a merge that is there twice the last counts.
  file["model"]["merges"] = {"a b", "b c", "a b"};
  EXPECT_EQ(encode(file, "abc"), (Ids{'a', 258}));
  file["model"]["merges"] = {"#version: 0.2", "a b"};
  EXPECT_EQ(encode(file, "abc"), (Ids{256, 'c'}));
  EXPECT_EQ(parse(file)->vocab_size(), 260);
  EXPECT_TRUE(encode(file, "").empty());
}

TEST(TokenizerJson, IgnoreMergesTakesWholeWords) {
  json file = small();
  EXPECT_EQ(encode(file, "abc"), (Ids{'a', 258}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(file, "abc abcbc"), (Ids{257, ' ', 'a', 258, 258}));
}

TEST(TokenizerJson, AddedTokens) {
  json file = small();
  file["added_tokens"] = {added("<s>", 260, true), added("<s>>", 261), added("ab", 256),
                          added("", 9)};
  const auto tokenizer = parse(file);
  EXPECT_EQ(tokenizer->encode("<s>><s>ab"), (Ids{261, 260, 256}));
  EXPECT_EQ(tokenizer->decode(Ids{261, 260, 256, 257, 999, -3}), "<s>>ababc");
  EXPECT_EQ(tokenizer->decode(Ids{261, 260}, false), "<s>><s>");
  EXPECT_EQ(tokenizer->vocab_size(), 262);
}

TEST(TokenizerJson, AddedTokenFlags) {
  json file = small();
  json left = added("[L]", 260), right = added("[R]", 261), word = added("wo", 262);
  left["lstrip"] = right["rstrip"] = word["single_word"] = true;
  file["added_tokens"] = {left, right, word};
  EXPECT_EQ(encode(file, "a \n[L] b"), (Ids{'a', 260, ' ', 'b'}));
  EXPECT_EQ(encode(file, "a [R]\xE3\x80\x80 b"), (Ids{'a', ' ', 261, 'b'}));
  EXPECT_EQ(encode(file, "wo wow wo_ -wo"),
            (Ids{262, ' ', 'w', 'o', 'w', ' ', 'w', 'o', '_', ' ', '-', 262}));
  json normal = added("e\xCC\x81", 260);
  normal["normalized"] = true;
  file["added_tokens"] = {normal};
  EXPECT_EQ(encode(file,
                   "\xC3\xA9"
                   "e\xCC\x81"),
            (Ids{0xC3, 0xA9, 260}));
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(encode(file,
                   "\xC3\xA9"
                   "e\xCC\x81"),
            (Ids{260, 260}));
}

TEST(TokenizerJson, Templates) {
  json file = small();
  file["added_tokens"] = {added("<s>", 260, true), added("</s>", 261, true)};
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto special = [](const char* id) {
    return json{{"SpecialToken", {{"id", id}, {"type_id", 0}}}};
  };
  file["post_processor"] = {{"type", "Sequence"},
                            {"processors",
                             {{{"type", "ByteLevel"}},
                              {{"type", "TemplateProcessing"},
                               {"single", {special("b"), text, special("e")}},
                               {"pair", json::array()},
                               {"special_tokens",
                                {{"b", {{"id", "b"}, {"ids", {260, 5}}, {"tokens", {"<s>", "x"}}}},
                                 {"e", {{"id", "e"}, {"ids", {261}}, {"tokens", {"</s>"}}}}}}}}}};
  const auto tokenizer = parse(file);
  EXPECT_EQ(tokenizer->encode("ab"), (Ids{260, 5, 256, 261}));
  EXPECT_EQ(tokenizer->encode("ab", false), (Ids{256}));
  EXPECT_EQ(tokenizer->encode(""), (Ids{260, 5, 261}));
  EXPECT_EQ(tokenizer->decode(Ids{260, 256, 261}), "ab");
}

TEST(TokenizerJson, PrefixSpaceAndBytesCutShort) {
  json file = small();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(encode(file, "x x"), (Ids{259, 259}));
  EXPECT_EQ(encode(file, " x"), (Ids{259}));
  EXPECT_EQ(parse(file)->decode(Ids{0xE3, 0x81}), "\xEF\xBF\xBD");
  EXPECT_EQ(failure_of([&] { encode(file, "a\xFF"); }).code, 4);
}

TEST(TokenizerJson, KnownPatterns) {
  // What the two patterns make of the same text, by the words they cut.
  const std::string folder = LONGHAUL_TEST_DATA "/tokenizer/";
  for (const std::string name : {"qwen3", "llama3"}) {
    json file = small();
    file["pre_tokenizer"] =
        json::parse(read_text_file(folder + name + "/tokenizer.json"))["pre_tokenizer"];
    // Every word becomes one token: number the words by adding them with ignore_merges.
    file["model"]["ignore_merges"] = true;
    const std::vector<std::string> words =
        name == "qwen3"
            ? std::vector<std::string>{"I",           "'LL",
                                       "\xC4\xA0pay", "\xC4\xA0",
                                       "1",           "2",
                                       "3",           "4",
                                       "!!\xC4\x8A",  "\xC4\xA0\xC4\xA0",
                                       "\xC4\xA0now"}
            : std::vector<std::string>{"I", "'LL",        "\xC4\xA0pay",      "\xC4\xA0",   "123",
                                       "4", "!!\xC4\x8A", "\xC4\xA0\xC4\xA0", "\xC4\xA0now"};
    int next = 300;
    for (const std::string& word : words) {
      if (!file["model"]["vocab"].contains(word)) file["model"]["vocab"][word] = next++;
    }
    Ids expected;
    for (const std::string& word : words) expected.push_back(file["model"]["vocab"][word]);
    EXPECT_EQ(encode(file, "I'LL pay 1234!!\n   now"), expected) << name;
  }
}

struct Bad {
  const char* what;
  int code;
  std::function<void(json&)> spoil;
};

TEST(TokenizerJson, RefusesByName) {
  const auto step = [](json& file, json value) { file["pre_tokenizer"] = std::move(value); };
  const std::vector<Bad> all{
      {"WordPiece", 2, [](json& f) { f["model"]["type"] = "WordPiece"; }},
      {"Unigram", 2, [](json& f) { f["model"]["type"] = "Unigram"; }},
      {"WordLevel", 2, [](json& f) { f["model"]["type"] = "WordLevel"; }},
      {"without \"merges\"", 2,
       [](json& f) { f["model"].erase("type"), f["model"].erase("merges"); }},
      {"version", 2, [](json& f) { f["version"] = "2.0"; }},
      {"dropout", 2, [](json& f) { f["model"]["dropout"] = 0.1; }},
      {"byte_fallback", 2, [](json& f) { f["model"]["byte_fallback"] = true; }},
      {"continuing_subword_prefix", 2,
       [](json& f) { f["model"]["continuing_subword_prefix"] = "##"; }},
      {"end_of_word_suffix", 2, [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }},
      {"byte 0x41", 2, [](json& f) { f["model"]["vocab"].erase("A"); }},
      {"Lowercase", 2,
       [](json& f) {
         f["normalizer"] = {{"type", "Lowercase"}};
       }},
      {"NFKC", 2,
       [](json& f) {
         f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}};
       }},
      {"without ByteLevel", 2, [&](json& f) { step(f, nullptr); }},
      {"Metaspace", 2,
       [&](json& f) {
         step(f, {{"type", "Metaspace"}});
       }},
      {"after ByteLevel", 2,
       [&](json& f) {
         step(f,
              {{"type", "Sequence"}, {"pretokenizers", {f["pre_tokenizer"], f["pre_tokenizer"]}}});
       }},
      {"MergedWithNext", 2,
       [&](json& f) {
         step(f, {{"type", "Split"},
                  {"pattern", {{"Regex", "a"}}},
                  {"behavior", "MergedWithNext"},
                  {"invert", false}});
       }},
      {"(&&) at byte 2", 2,
       [&](json& f) {
         step(f, {{"type", "Split"},
                  {"pattern", {{"Regex", "[a&&b]"}}},
                  {"behavior", "Isolated"},
                  {"invert", false}});
       }},
      {"not closed", 4,
       [&](json& f) {
         step(f, {{"type", "Split"},
                  {"pattern", {{"Regex", "(a"}}},
                  {"behavior", "Isolated"},
                  {"invert", false}});
       }},
      {"decoder", 2, [](json& f) { f["decoder"] = nullptr; }},
      {"ByteFallback", 2,
       [](json& f) {
         f["decoder"] = {{"type", "ByteFallback"}};
       }},
      {"Bert", 2,
       [](json& f) {
         f["post_processor"] = {{"type", "BertProcessing"}};
       }},
      {"sequence \"B\"", 2,
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"Sequence", {{"id", "B"}, {"type_id", 0}}}}}},
                                {"special_tokens", json::object()}};
       }},
      {"special_tokens", 4,
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}}}},
                                {"special_tokens", json::object()}};
       }},
      {"without the text", 2,
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", json::array()},
                                {"special_tokens", json::object()}};
       }},
      {"\"model\" is missing", 4, [](json& f) { f.erase("model"); }},
      {"\"vocab\" is missing", 4, [](json& f) { f["model"].erase("vocab"); }},
      {"model.vocab", 4, [](json& f) { f["model"]["vocab"] = json::array(); }},
      {"not a token id", 4, [](json& f) { f["model"]["vocab"]["ab"] = -1; }},
      {"not a token id", 4, [](json& f) { f["model"]["vocab"]["ab"] = 1.5; }},
      {"not a token id", 4, [](json& f) { f["model"]["vocab"]["ab"] = 4294967296; }},
      {"id 97 belongs", 4, [](json& f) { f["model"]["vocab"]["ab"] = 97; }},
      {"model.merges[1]", 4, [](json& f) { f["model"]["merges"][1] = "ab"; }},
      {"model.merges[1]", 4, [](json& f) { f["model"]["merges"][1] = "a b c"; }},
      {"model.merges[1]", 4,
       [](json& f) {
         f["model"]["merges"][1] = json{"a", "b"};
       }},
      {"\"ba\" is not in the vocabulary", 4, [](json& f) { f["model"]["merges"][1] = "b a"; }},
      {"not two tokens", 4,
       [](json& f) {
         f["model"]["merges"] = {{1, 2}};
       }},
      {"model.merges", 4, [](json& f) { f["model"]["merges"] = 5; }},
      {"\"content\" is missing", 4,
       [](json& f) {
         f["added_tokens"] = {{{"id", 3}}};
       }},
      {"\"lstrip\" is missing", 4,
       [](json& f) {
         f["added_tokens"] = {added("x", 260)}, f["added_tokens"][0].erase("lstrip");
       }},
      {"added_tokens[0].special", 4,
       [](json& f) { f["added_tokens"] = {added("x", 260)}, f["added_tokens"][0]["special"] = 1; }},
      {"there twice", 4,
       [](json& f) {
         f["normalizer"] = {{"type", "NFC"}};
         f["added_tokens"] = {added("\xC3\xA9", 260), added("e\xCC\x81", 261)};
         f["added_tokens"][0]["normalized"] = f["added_tokens"][1]["normalized"] = true;
       }},
      {"is an array", 4, [](json& f) { f = json::array(); }},
  };
  for (const Bad& bad : all) {
    SCOPED_TRACE(bad.what);
    json file = small();
    bad.spoil(file);
    const Failure failure = failure_of([&] { parse(file); });
    EXPECT_EQ(failure.code, bad.code) << failure.message;
    EXPECT_TRUE(failure.mentions(bad.what)) << failure.message;
    EXPECT_EQ(failure.message.find('\n'), std::string::npos) << failure.message;
    if (bad.code == 2) {
      EXPECT_TRUE(failure.mentions("token ids")) << failure.message;
    }
  }
}

TEST(TokenizerJson, NotJson) {
  for (const std::string text :
       {"", "{", "{\"model\":}", "{\"model\":1e999}", "\xFF", "nul", "{}{}"}) {
    const Failure failure = failure_of([&] { parse_tokenizer_json(text, "t.json"); });
    EXPECT_EQ(failure.code, 4) << text << ": " << failure.message;
    EXPECT_TRUE(failure.mentions("t.json")) << failure.message;
  }
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(failure_of([&] { parse_tokenizer_json(deep, "t"); }).code, 4);
  std::string steps = small()["pre_tokenizer"].dump();
  for (int i = 0; i < 5000; ++i) {
    steps = R"({"type":"Sequence","pretokenizers":[)" + steps + "]}";
  }
  json file = small();
  file["pre_tokenizer"] = "HERE";
  std::string nested = file.dump();
  nested.replace(nested.find("\"HERE\""), 6, steps);
  EXPECT_EQ(failure_of([&] { parse_tokenizer_json(nested, "t"); }).code, 2);
}

// Settings that change nothing here, and parts that older files leave out.
TEST(TokenizerJson, AcceptsHarmlessSettings) {
  json file = small();
  file["truncation"] = {{"max_length", 2}};
  file["padding"] = {{"length", 9}};
  file["model"]["dropout"] = 0.0;
  file["model"]["unk_token"] = "<unk>";
  file["model"]["fuse_unk"] = true;
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["end_of_word_suffix"] = "";
  file["model"].erase("type");
  file.erase("added_tokens");
  file.erase("normalizer");
  file["decoder"] = {{"type", "Sequence"}, {"decoders", {file["decoder"]}}};
  EXPECT_EQ(encode(file, "ab ab ab"), (Ids{256, ' ', 256, ' ', 256}));
}

}  // namespace
}  // namespace longhaul::io
