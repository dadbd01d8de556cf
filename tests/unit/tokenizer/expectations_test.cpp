// Ten thousand random strings a vocabulary, against what the `tokenizers` package made of them
// (tests/data/tokenizer/make_expectations.py): ids and decoded text, none different.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/io/json_lines.h"
#include "runtime/io/tokenizer_json.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

const std::string kData = LONGHAUL_TEST_DATA "/tokenizer/";

uint64_t fnv1a(const void* data, size_t size) {
  uint64_t value = 0xCBF29CE484222325u;
  for (size_t i = 0; i < size; ++i) {
    value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001B3u;
  }
  return value;
}

// The format of write_expectations() in make_expectations.py.
class Expectations {
 public:
  explicit Expectations(const std::string& file) {
    std::FILE* stream = std::fopen(file.c_str(), "rb");
    if (stream == nullptr) throw std::runtime_error("cannot open " + file);
    bytes_.resize(std::filesystem::file_size(file));
    const size_t got = std::fread(bytes_.data(), 1, bytes_.size(), stream);
    std::fclose(stream);
    if (got != bytes_.size()) throw std::runtime_error("cannot read " + file);
    count_ = take<uint32_t>();
  }
  struct Item {
    std::string text;
    uint64_t ids_hash, decoded_hash;
    uint32_t num_ids;
    std::vector<int32_t> ids;  // of the first 500 strings
  };
  uint32_t count() const { return count_; }
  bool at_end() const { return at_ == bytes_.size(); }
  Item next() {
    Item item;
    item.text.resize(take<uint32_t>());
    copy(item.text.data(), item.text.size());
    item.ids_hash = take<uint64_t>();
    item.decoded_hash = take<uint64_t>();
    item.num_ids = take<uint32_t>();
    if (index_++ < 500) {
      item.ids.resize(item.num_ids);
      copy(item.ids.data(), item.ids.size() * sizeof(int32_t));
    }
    return item;
  }

 private:
  template <class T>
  T take() {
    T value;
    copy(&value, sizeof value);
    return value;
  }
  void copy(void* to, size_t size) {
    if (size > bytes_.size() - at_) throw std::runtime_error("expectations end too early");
    if (size > 0) std::memcpy(to, bytes_.data() + at_, size);
    at_ += size;
  }
  std::string bytes_;
  size_t at_ = 0;
  uint32_t count_ = 0;
  uint32_t index_ = 0;
};

std::string escaped(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true);
}

void expect_none_different(const Tokenizer& tokenizer, const std::string& file, uint32_t least) {
  Expectations expectations(file);
  ASSERT_GE(expectations.count(), least);
  int different = 0;
  for (uint32_t i = 0; i < expectations.count(); ++i) {
    const Expectations::Item item = expectations.next();
    const std::vector<int32_t> ids = tokenizer.encode(item.text);
    const std::string decoded = tokenizer.decode(ids);
    const bool same_ids = ids.size() == item.num_ids &&
                          fnv1a(ids.data(), ids.size() * sizeof(int32_t)) == item.ids_hash;
    const bool same_text = fnv1a(decoded.data(), decoded.size()) == item.decoded_hash;
    if (same_ids && same_text) continue;
    if (++different > 5) continue;
    ADD_FAILURE() << "string " << i << ": " << escaped(item.text) << "\nids " << nlohmann::json(ids)
                  << "\nexpected " << item.num_ids << " " << nlohmann::json(item.ids)
                  << "\ndecoded " << escaped(decoded);
  }
  EXPECT_EQ(different, 0) << "of " << expectations.count() << " strings in " << file;
  EXPECT_TRUE(expectations.at_end());
}

std::unique_ptr<Tokenizer> vocabulary(const std::string& name) {
  return load_tokenizer(kData + name, 6000);
}

TEST(Expectations, Qwen3) {
  expect_none_different(*vocabulary("qwen3"), kData + "qwen3/expectations.bin", 10000);
}

TEST(Expectations, Llama3) {
  expect_none_different(*vocabulary("llama3"), kData + "llama3/expectations.bin", 10000);
}

// The first vocabulary with the pre-tokenizers of other models.
TEST(Expectations, OtherPreTokenizers) {
  auto whole = nlohmann::json::parse(read_text_file(kData + "qwen3/tokenizer.json"));
  int variants = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kData + "variants")) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path().stem().string());
    whole.update(nlohmann::json::parse(read_text_file(entry.path())));
    const auto tokenizer = parse_tokenizer_json(whole.dump(), "variant");
    auto strings = entry.path();
    expect_none_different(*tokenizer, strings.replace_extension(".bin"), 400);
    ++variants;
  }
  EXPECT_EQ(variants, 7);
}

// Every byte string survives: what decode gives back for what encode made, over all code points.
TEST(Expectations, EveryCodePointSurvives) {
  const auto tokenizer = vocabulary("llama3");  // without a normalizer
  std::string text;
  for (uint32_t code = 0; code < 0x110000; code += 0x1000) {
    text.clear();
    for (uint32_t c = code; c < code + 0x1000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      append_utf8(text, c);
    }
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << std::hex << code;
  }
}

// Time grows as n log n at most: these would take minutes if anything were quadratic, and the test
// has a limit. What is compared is that nothing is lost.
TEST(Expectations, LongRunsEndSoon) {
  const auto tokenizer = vocabulary("llama3");
  const auto composing = vocabulary("qwen3");
  for (const std::string unit :
       {"a", "ab", " ", "\n", "e\xCC\x81", "1", "<|", "\xE3\x81\x82", "x\n ", "'"}) {
    std::string text;
    while (text.size() < 400'000) text += unit;
    const std::vector<int32_t> ids = tokenizer->encode(text);
    if (unit != " " && unit != "x\n ") {
      EXPECT_EQ(tokenizer->decode(ids), text) << escaped(unit);
    }
    EXPECT_FALSE(composing->encode(text).empty());
  }
  // Marks whose order must change: each moves past all of the others' class.
  std::string marks = "a";
  for (int i = 0; i < 100'000; ++i) marks += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";
  EXPECT_FALSE(composing->encode(marks).empty());
}

}  // namespace
}  // namespace longhaul::io
