// Prompt files: what is read, and one clear line and the documented exit code for what is not.
#include "runtime/io/prompts.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/tokenizer/failure.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kVocab = 320;

class Prompts : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / ("longhaul_prompts_" + std::to_string(getpid()));
    fs::create_directories(dir_);
    bytes_ = load_tokenizer(dir_, 256);
    ASSERT_NE(bytes_, nullptr);
  }
  void TearDown() override { fs::remove_all(dir_); }

  fs::path write(const std::string& name, const std::string& content) const {
    std::ofstream(dir_ / name, std::ios::binary) << content;
    return dir_ / name;
  }
  std::vector<Prompt> read(const std::string& name, const std::string& content) const {
    return read_prompts(write(name, content), bytes_.get(), kVocab);
  }
  Failure failing(const std::string& name, const std::string& content) const {
    return failure_of([&] { read(name, content); });
  }

  fs::path dir_;
  std::unique_ptr<Tokenizer> bytes_;
};

using Ids = std::vector<int32_t>;

TEST_F(Prompts, Lists) {
  const auto prompts = read("p.json", "\xEF\xBB\xBF[[1, 2,3],\r\n [319] , [0]]\n");
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_EQ(prompts[0].tokens, (Ids{1, 2, 3}));
  EXPECT_EQ(prompts[1].tokens, (Ids{319}));
  EXPECT_EQ(prompts[2].id, "2");
  EXPECT_FALSE(prompts[0].text || prompts[0].answer);
  EXPECT_EQ(read("p.json", "[[-0]]")[0].tokens, (Ids{0}));
}

TEST_F(Prompts, Objects) {
  const auto prompts =
      read("p.jsonl",
           "\xEF\xBB\xBF{\"id\": \"one\", \"text\": \"hi\", \"answer\": \"yes\"}\r\n"
           "\n  \t\r\n"
           "{\"tokens\":[5,6],\"more\":{\"tokens\":[[1.5]],\"text\":3},\"id\":17}\n"
           "{\"text\":\"\\u00e9\\ud83d\\ude00\",\"id\":null,\"tokens\":null,\"answer\":42}\n"
           "{\"tokens\":[7],\"id\":1.50}");
  ASSERT_EQ(prompts.size(), 4u);
  EXPECT_EQ(prompts[0].id, "one");
  EXPECT_EQ(prompts[0].tokens, (Ids{'h', 'i'}));
  EXPECT_EQ(prompts[0].text, "hi");
  EXPECT_EQ(prompts[0].answer, "yes");
  EXPECT_EQ(prompts[1].id, "17");
  EXPECT_EQ(prompts[1].tokens, (Ids{5, 6}));
  EXPECT_FALSE(prompts[1].text);
  EXPECT_EQ(prompts[2].id, "2");
  EXPECT_EQ(prompts[2].tokens, (Ids{0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80}));
  EXPECT_EQ(prompts[2].answer, "42");
  EXPECT_EQ(prompts[3].id, "1.50");
}

TEST_F(Prompts, SameIdTwiceIsFine) {
  EXPECT_EQ(read("p.jsonl", "{\"id\":\"a\",\"tokens\":[1]}\n{\"id\":\"a\",\"tokens\":[2]}").size(),
            2u);
}

TEST_F(Prompts, AMillionIdsAndDeepNesting) {
  std::string list = "[[";
  for (int i = 0; i < 1'000'000; ++i) list += std::to_string(i % 320) + ",";
  list += "7]]";
  EXPECT_EQ(read("p.json", list)[0].tokens.size(), 1'000'001u);
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_EQ(read("p.jsonl", "{\"x\":" + deep + ",\"tokens\":[1]}").size(), 1u);
  EXPECT_EQ(failing("p.json", deep).code, 4);
  EXPECT_EQ(failing("p.jsonl", deep).code, 4);
  EXPECT_EQ(failing("p.jsonl", "{\"tokens\":" + deep + "}").code, 4);
}

struct Bad {
  const char* name;
  std::string content;
  int code;
  std::vector<std::string> says;
};

TEST_F(Prompts, BadLists) {
  const std::vector<Bad> all{
      {"p.json", "", 4, {"p.json:1"}},
      {"p.json", "[]", 2, {"no prompts"}},
      {"p.json", "[[1],[]]", 2, {"prompt 1", "empty"}},
      {"p.json", "[[1],[2,320]]", 2, {"prompt 1", "token 1", "320", "0 to 319"}},
      {"p.json", "[[-1]]", 2, {"prompt 0", "token 0", "-1"}},
      {"p.json", "[[4294967296]]", 2, {"4294967296"}},
      {"p.json", "[[18446744073709551615]]", 2, {"18446744073709551615"}},
      {"p.json", "[[99999999999999999999999]]", 2, {"99999999999999999999999"}},
      {"p.json", "[[-99999999999999999999999]]", 2, {"outside"}},
      {"p.json", "[[1.5]]", 4, {"token 0", "1.5", "whole"}},
      {"p.json", "[[1e2]]", 4, {"whole"}},
      {"p.json", "[[1e999]]", 4, {"p.json:1"}},
      {"p.json", "[[NaN]]", 4, {"p.json:1", "column"}},
      {"p.json", "[[Infinity]]", 4, {"p.json:1"}},
      {"p.json", "[[01]]", 4, {"p.json:1"}},
      {"p.json", "[[\"1\"]]", 4, {"token 0", "a string"}},
      {"p.json", "[[null]]", 4, {"null"}},
      {"p.json", "[[true]]", 4, {"true"}},
      {"p.json", "[[{}]]", 4, {"an object"}},
      {"p.json", "[[[1]]]", 4, {"a list"}},
      {"p.json", "[1,2]", 4, {"prompt 0 is a number"}},
      {"p.json", "[[1],\"a\"]", 4, {"prompt 1 is a string"}},
      {"p.json", "[[1],null]", 4, {"prompt 1 is null"}},
      {"p.json", "[{\"tokens\":[1]}]", 4, {"object", ".jsonl"}},
      {"p.json", "{\"tokens\":[1]}", 4, {"holds an object"}},
      {"p.json", "7", 4, {"holds a number"}},
      {"p.json", "[[1],\n[2,]]", 4, {"p.json:2", "column 4"}},
      {"p.json", "[[1]", 4, {"p.json:1"}},
      {"p.json", "[[1]] [[2]]", 4, {"p.json:1"}},
      {"p.json", "[[1]]\n\n,", 4, {"p.json:3"}},
      {"p.json", std::string("[[1]]\n\0x", 8), 4, {"p.json:2", "NUL"}},
      {"p.json", std::string("\xFF\xFE[\0", 4), 4, {"UTF-16"}},
      {"p.json", "\xFF[[1]]", 4, {"p.json:1"}},
  };
  for (const Bad& bad : all) {
    SCOPED_TRACE(bad.content);
    const Failure failure = failing(bad.name, bad.content);
    EXPECT_EQ(failure.code, bad.code) << failure.message;
    for (const std::string& part : bad.says) EXPECT_TRUE(failure.mentions(part)) << failure.message;
    EXPECT_EQ(failure.message.find('\n'), std::string::npos) << failure.message;
    EXPECT_LT(failure.message.size(), 600u);
  }
}

TEST_F(Prompts, BadLines) {
  const std::string good = "{\"tokens\":[1]}\n";
  const std::vector<Bad> all{
      {"p.jsonl", "", 2, {"no prompts"}},
      {"p.jsonl", "\n \n", 2, {"no prompts"}},
      {"p.jsonl", good + "\n{\"tokens\":[1}", 4, {"p.jsonl:3", "column 13"}},
      {"p.jsonl", good + "{\"tokens\":[1]} {}", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "{\"text\":\"a", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "{tokens:[1]}", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "hello", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "[1,2]", 4, {"p.jsonl:2", "is a list"}},
      {"p.jsonl", good + "\"text\"", 4, {"p.jsonl:2", "is a string"}},
      {"p.jsonl", good + "12", 4, {"p.jsonl:2", "is a number"}},
      {"p.jsonl", good + "null", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "{}", 4, {"p.jsonl:2", "neither"}},
      {"p.jsonl", good + "{\"tokens\":null}", 4, {"neither"}},
      {"p.jsonl", good + "{\"prompt\":\"a\"}", 4, {"neither"}},
      {"p.jsonl", good + "{\"tokens\":[1],\"text\":\"a\"}", 4, {"p.jsonl:2", "both"}},
      {"p.jsonl", good + "{\"tokens\":[1],\"tokens\":[2]}", 4, {"twice"}},
      {"p.jsonl", good + "{\"tokens\":[]}", 2, {"p.jsonl:2", "prompt 1", "empty"}},
      {"p.jsonl", good + "{\"text\":\"\"}", 2, {"p.jsonl:2", "empty"}},
      {"p.jsonl", good + "{\"tokens\":[3,320]}", 2, {"p.jsonl:2", "prompt 1", "token 1", "320"}},
      {"p.jsonl", good + "{\"tokens\":[-5]}", 2, {"-5"}},
      {"p.jsonl", good + "{\"tokens\":[0.5]}", 4, {"0.5"}},
      {"p.jsonl", good + "{\"tokens\":[\"1\"]}", 4, {"a string"}},
      {"p.jsonl", good + "{\"tokens\":[[1]]}", 4, {"a list"}},
      {"p.jsonl", good + "{\"tokens\":\"1 2\"}", 4, {"\"tokens\" is a string"}},
      {"p.jsonl", good + "{\"tokens\":{\"a\":1}}", 4, {"\"tokens\" is an object"}},
      {"p.jsonl", good + "{\"tokens\":5}", 4, {"\"tokens\" is a number"}},
      {"p.jsonl", good + "{\"text\":5}", 4, {"\"text\" is a number"}},
      {"p.jsonl", good + "{\"text\":[\"a\"]}", 4, {"\"text\" is a list"}},
      {"p.jsonl", good + "{\"text\":\"a\",\"id\":[1]}", 4, {"\"id\" is a list"}},
      {"p.jsonl", good + "{\"text\":\"a\",\"id\":true}", 4, {"\"id\" is true"}},
      {"p.jsonl", good + "{\"text\":\"a\",\"answer\":{}}", 4, {"\"answer\" is an object"}},
      {"p.jsonl", good + "{\"text\":\"\xC3(\"}", 4, {"p.jsonl:2", "UTF-8"}},
      {"p.jsonl", good + "{\"text\":\"\\ud800\"}", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "{\"text\":\"a\tb\"}", 4, {"p.jsonl:2"}},
      {"p.jsonl", good + "{\"text\":\"" + std::string(100'000, 'x'), 4, {"p.jsonl:2"}},
  };
  for (const Bad& bad : all) {
    SCOPED_TRACE(bad.content.substr(0, 100));
    const Failure failure = failing(bad.name, bad.content);
    EXPECT_EQ(failure.code, bad.code) << failure.message;
    for (const std::string& part : bad.says) EXPECT_TRUE(failure.mentions(part)) << failure.message;
    EXPECT_EQ(failure.message.find('\n'), std::string::npos) << failure.message;
    EXPECT_LT(failure.message.size(), 600u);
  }
}

TEST_F(Prompts, BadFiles) {
  const auto failing_path = [&](const fs::path& path) {
    return failure_of([&] { read_prompts(path, bytes_.get(), kVocab); });
  };
  EXPECT_EQ(failing_path(dir_ / "none.jsonl").code, 2);
  EXPECT_TRUE(failing_path(dir_ / "none.jsonl").mentions("no such file"));
  fs::create_directory(dir_ / "folder.json");
  EXPECT_TRUE(failing_path(dir_ / "folder.json").mentions("folder"));
  ASSERT_EQ(mkfifo((dir_ / "pipe.json").c_str(), 0600), 0);
  EXPECT_EQ(failing_path(dir_ / "pipe.json").code, 4);  // and does not wait for a writer
  for (const char* name : {"p.txt", "p", "p.JSONL", "p.ndjson"}) {
    const Failure failure = failing_path(write(name, "[[1]]"));
    EXPECT_EQ(failure.code, 2);
    EXPECT_TRUE(failure.mentions(".json") && failure.mentions(".jsonl")) << failure.message;
  }
  if (geteuid() != 0) {
    const fs::path locked = write("locked.json", "[[1]]");
    fs::permissions(locked, fs::perms::none);
    EXPECT_EQ(failing_path(locked).code, 4);
  }
}

TEST_F(Prompts, TextNeedsATokenizer) {
  const fs::path file = write("p.jsonl", "{\"text\":\"a\"}");
  const Failure missing = failure_of([&] { read_prompts(file, nullptr, kVocab); });
  EXPECT_EQ(missing.code, 2);
  EXPECT_TRUE(missing.mentions("p.jsonl:1") && missing.mentions("tokenizer.json"));
  std::string reason;
  EXPECT_EQ(load_tokenizer_if_supported(dir_, 300, reason), nullptr);
  write("tokenizer.model", "x");
  EXPECT_EQ(load_tokenizer_if_supported(dir_, 300, reason), nullptr);
  EXPECT_NE(reason.find("SentencePiece"), std::string::npos);
  EXPECT_TRUE(failure_of([&] { read_prompts(file, nullptr, kVocab, reason); }).mentions(reason));
  write("tokenizer.json", "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}");
  EXPECT_EQ(load_tokenizer_if_supported(dir_, 300, reason), nullptr);
  EXPECT_NE(reason.find("WordPiece"), std::string::npos);
  EXPECT_EQ(failure_of([&] { load_tokenizer(dir_, 300); }).code, 2);
  write("tokenizer.json", "{");
  EXPECT_EQ(failure_of([&] { load_tokenizer_if_supported(dir_, 300, reason); }).code, 4);
}

TEST_F(Prompts, TextWithATokenizerOfAnotherModel) {
  const Failure failure = failure_of(
      [&] { parse_prompts("{\"text\":\"z\"}", PromptFormat::json_lines, "p", bytes_.get(), 100); });
  EXPECT_EQ(failure.code, 2);
  EXPECT_TRUE(failure.mentions("token 0 as 122")) << failure.message;
}

TEST(ByteTokenizer, BytesBothWays) {
  const auto tokenizer = load_tokenizer("/no/such/folder", 256);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  const Ids ids = tokenizer->encode(all);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(ids[static_cast<size_t>(b)], b);
  EXPECT_EQ(tokenizer->decode(Ids{'h', 0xC3, 0xA9, 0xC3, 300, -1, '!'}), "h\xC3\xA9\xEF\xBF\xBD!");
  EXPECT_EQ(load_tokenizer("/no/such/folder", 257), nullptr);
}

}  // namespace
}  // namespace longhaul::io
