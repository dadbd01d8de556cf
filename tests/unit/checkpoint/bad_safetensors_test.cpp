// Every kind of damage to a safetensors file, each refused with exit code 4 and a line that says
// what is wrong and where.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/io/checkpoint.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

struct BadFile {
  std::string label;
  std::string bytes;
  std::string part;  // of the message
};

// Header with `tensors` between the braces, and 16 bytes of data.
std::string with(const std::string& tensors, size_t data = 16) {
  return safetensors_bytes("{" + tensors + "}", data);
}
std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes + rest;
}
// One tensor named t of these fields.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t data = 16) {
  return with(
      R"("t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}",
      data);
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

const std::string kA = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
const std::string kB = R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]})";
const std::string kGood = with(kA + "," + kB);

std::vector<BadFile> bad_lengths() {
  const std::string json = "{" + kA + "," + kB + "}";
  return {
      {"empty file", "", "too short"},
      {"one byte", "x", "too short"},
      {"seven bytes", std::string(7, '\0'), "too short"},
      {"length only, zero", std::string(8, '\0'), "does not begin with '{'"},
      {"length zero with data", with_length(0, json), "does not begin with '{'"},
      {"length past the end by one", with_length(json.size() + 17, json + std::string(16, 'x')),
       "cut short"},
      {"length 100,000,001", with_length(100'000'001, json), "more than 100000000"},
      {"length 2^63", with_length(uint64_t{1} << 63, json), "more than 100000000"},
      {"length 2^64 - 1", with_length(~uint64_t{0}, json), "more than 100000000"},
      {"length 2^64 - 8", with_length(~uint64_t{0} - 7, json), "more than 100000000"},
      {"length big-endian", with_length(0x4a00000000000000, json), "more than 100000000"},
      {"length one short", with_length(json.size() - 1, json + std::string(16, '\0')),
       "malformed JSON"},
      {"length one long", with_length(json.size() + 1, json + std::string(16, '\0')),
       "malformed JSON"},
      {"header cut in the middle", kGood.substr(0, 40), "cut short"},
      {"data cut by one byte", kGood.substr(0, kGood.size() - 1), "cut short"},
      {"all data missing", kGood.substr(0, kGood.size() - 16), "cut short"},
      {"one byte appended", kGood + "x", "belong to nothing"},
      {"a zip archive appended", kGood + "PK\x03\x04 and more", "belong to nothing"},
  };
}

std::vector<BadFile> bad_json() {
  const std::string many(40, '[');
  return {
      {"a list", safetensors_bytes("[]", 0U), "does not begin with '{'"},
      {"leading space", safetensors_bytes(" {}", 0U), "does not begin with '{'"},
      {"leading byte order mark", safetensors_bytes("\xef\xbb\xbf{}", 0U),
       "does not begin with '{'"},
      {"no JSON", safetensors_bytes("{hello}", 0U), "malformed JSON at line 1, column 2"},
      {"unclosed", safetensors_bytes("{" + kA, 8U), "malformed JSON"},
      {"trailing comma", with(kA + "," + kB + ","), "malformed JSON"},
      {"two documents", safetensors_bytes("{}{}", 0U), "malformed JSON"},
      {"text behind", safetensors_bytes("{} x", 0U), "malformed JSON"},
      {"NUL padding", safetensors_bytes(std::string("{}\0\0", 4), 0U), "malformed JSON"},
      {"a comment", with(kA + ",/* b */" + kB), "malformed JSON"},
      {"NaN", one(R"("F32")", "[NaN]", "[0,16]"), "malformed JSON"},
      {"huge exponent", one(R"("F32")", "[1e999]", "[0,16]"), "malformed JSON"},
      {"not UTF-8 in a name", with(R"("a)" + std::string("\xff") + R"(":{})"),
       "not UTF-8 at byte 3"},
      {"overlong UTF-8", with(std::string("\"\xc0\xaf\":{}")), "not UTF-8"},
      {"UTF-8 surrogate", with(std::string("\"\xed\xa0\x80\":{}")), "not UTF-8"},
      {"UTF-8 past the end of Unicode", with(std::string("\"\xf4\x90\x80\x80\":{}")), "not UTF-8"},
      {"UTF-8 cut by the quote", with(std::string("\"\xe2\x82\":{}")), "not UTF-8"},
      {"stray continuation byte", with(std::string("\"\x80\":{}")), "not UTF-8"},
      {"lone escaped surrogate", with(R"("\ud800":{})"), "malformed JSON"},
      {"raw control character", with(std::string("\"a\nb\":{}")), "malformed JSON"},
      {"tensor twice", with(kA + "," + kA, 8), "'a' occurs twice"},
      {"tensor twice, once escaped", with(kA + R"(,"\u0061":{})", 8), "'a' occurs twice"},
      {"field twice",
       with(R"("t":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]})"),
       "'dtype' occurs twice"},
      {"metadata twice", with(R"("__metadata__":{},"__metadata__":{},)" + kA, 8), "occurs twice"},
      {"metadata key twice", with(R"("__metadata__":{"k":"1","k":"2"},)" + kA, 8), "occurs twice"},
      {"nested 5 deep", with(R"("t":{"dtype":"F32","shape":[[[4]]],"data_offsets":[0,16]})"),
       "deeper than 4"},
      {"nested 40 deep", with("\"t\":" + many), "deeper than 4"},
      {"nested a million deep", with("\"t\":" + std::string(1'000'000, '[')), "deeper than 4"},
  };
}

std::vector<BadFile> bad_fields() {
  return {
      {"metadata a string", with(R"("__metadata__":"pt",)" + kA, 8), "__metadata__ is \"pt\""},
      {"metadata a list", with(R"("__metadata__":[],)" + kA, 8), "not an object"},
      {"metadata value a number", with(R"("__metadata__":{"n":1},)" + kA, 8), "'n' is 1"},
      {"metadata value null", with(R"("__metadata__":{"n":null},)" + kA, 8), "'n' is null"},
      {"metadata value an object", with(R"("__metadata__":{"n":{}},)" + kA, 8), "an object"},
      {"tensor a list", with(R"("t":[])", 0), "'t': is [], not an object"},
      {"tensor null", with(R"("t":null)", 0), "'t': is null"},
      {"no dtype", with(R"("t":{"shape":[4],"data_offsets":[0,16]})"), "'t': has no dtype"},
      {"no shape", with(R"("t":{"dtype":"F32","data_offsets":[0,16]})"), "'t': has no shape"},
      {"no offsets", with(R"("t":{"dtype":"F32","shape":[4]})"), "'t': has no data_offsets"},
      {"unknown field", with(R"("t":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1})"),
       "keys beside dtype"},
      {"dtype a number", one("32", "[4]", "[0,16]"), "dtype is 32, not a string"},
      {"dtype unknown", one(R"("F33")", "[4]", "[0,16]"), "unknown dtype 'F33'"},
      {"dtype in lower case", one(R"("f32")", "[4]", "[0,16]"), "unknown dtype 'f32'"},
      {"dtype empty", one(R"("")", "[4]", "[0,16]"), "unknown dtype ''"},
      {"dtype with a newline", one(R"("F32\n")", "[4]", "[0,16]"), "'F32\\x0a'"},
      {"shape a number", one(R"("F32")", "4", "[0,16]"), "shape is 4"},
      {"shape negative", one(R"("F32")", "[-4]", "[0,16]"), "shape holds -4"},
      {"shape minus zero", one(R"("F32")", "[-0]", "[0,0]", 0), "shape holds"},
      {"shape a fraction", one(R"("F32")", "[4.0]", "[0,16]"), "shape holds 4.0"},
      {"shape a string", one(R"("F32")", R"(["4"])", "[0,16]"), "shape holds"},
      {"shape 2^48", one(R"("U8")", "[281474976710656]", "[0,16]"), "281474976710655"},
      {"shape 2^64", one(R"("U8")", "[18446744073709551616]", "[0,16]"), "shape holds"},
      {"shape of 65 dimensions", one(R"("U8")", "[1" + repeated(",1", 64) + "]", "[0,1]", 1),
       "a list of 65"},
      {"shape overflows", one(R"("F32")", "[281474976710655,281474976710655]", "[0,16]"),
       "overflows"},
      {"shape overflows to its size",
       one(R"("F32")", "[281474976710655,65536,281474976710655,4]", "[0,16]"), "overflows"},
      {"bits overflow where bytes do not", one(R"("F64")", "[281474976710655,8192]", "[0,16]"),
       "overflows"},
      {"half a byte", one(R"("F4")", "[3]", "[0,2]", 2), "do not fill whole bytes"},
      {"three quarters of a byte", one(R"("F6_E2M3")", "[1]", "[0,1]", 1),
       "do not fill whole bytes"},
  };
}

std::vector<BadFile> bad_offsets() {
  const std::string c = R"("c":{"dtype":"U8","shape":[4],"data_offsets":)";
  return {
      {"offsets a number", one(R"("F32")", "[4]", "16"), "data_offsets is 16"},
      {"one offset", one(R"("F32")", "[4]", "[16]"), "data_offsets is [16]"},
      {"three offsets", one(R"("F32")", "[4]", "[0,16,32]"), "data_offsets is [0,16,32]"},
      {"offset negative", one(R"("F32")", "[4]", "[-16,0]"), "data_offsets holds -16"},
      {"offset a fraction", one(R"("F32")", "[4]", "[0,16.0]"), "data_offsets holds 16.0"},
      {"offset a string", one(R"("F32")", "[4]", R"([0,"16"])"), "data_offsets holds"},
      {"offset past 64 bits", one(R"("F32")", "[4]", "[0,18446744073709551632]"),
       "data_offsets holds"},
      {"offsets reversed", one(R"("F32")", "[4]", "[16,0]"), "do not fit 16 bytes"},
      {"offsets too far apart", one(R"("F32")", "[3]", "[0,16]"), "do not fit 12 bytes"},
      {"offsets too close", one(R"("F32")", "[4]", "[0,12]"), "do not fit 16 bytes"},
      {"end near 2^64", one(R"("F32")", "[4]", "[18446744073709551600,18446744073709551615]"),
       "do not fit"},
      {"begins near 2^64, wraps",
       one(R"("U8")", "[16]", "[18446744073709551599,18446744073709551615]"), "begins at byte"},
      {"begins after 0", one(R"("F32")", "[3]", "[4,16]"), "belong to nothing"},
      {"ends before the data", one(R"("F32")", "[3]", "[0,12]"), "4 bytes after the last tensor"},
      {"ends behind the data", one(R"("F32")", "[5]", "[0,20]"), "the file has only 16"},
      {"a hole", with(kA + "," + c + "[12,16]}"), "belong to nothing"},
      {"an overlap", with(kA + "," + c + "[4,8]}", 8), "overlap"},
      {"the same bytes twice",
       with(kA + R"(,"c":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 8), "overlap"},
      {"inside another", with(kA + R"(,"c":{"dtype":"U8","shape":[2],"data_offsets":[2,4]})", 8),
       "overlap"},
      {"an empty tensor in the middle of another",
       with(kA + R"(,"c":{"dtype":"U8","shape":[0],"data_offsets":[4,4]})", 8), "overlap"},
      {"an empty tensor behind the data",
       with(kA + R"(,"c":{"dtype":"U8","shape":[0],"data_offsets":[9,9]})", 8),
       "belong to nothing"},
      {"data but no tensor", safetensors_bytes("{}", 1U), "1 bytes after the last tensor"},
  };
}

class BadSafetensors : public testing::TestWithParam<BadFile> {};

TEST_P(BadSafetensors, IsRefusedWithFileAndReason) {
  const TemporaryFolder dir;
  write_bytes(dir / "model.safetensors", GetParam().bytes);
  expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt,
                 {(dir / "model.safetensors").string(), GetParam().part}, GetParam().label);
}

std::string name_of(const testing::TestParamInfo<BadFile>& info) {
  std::string name;
  for (char c : info.param.label)
    name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Length, BadSafetensors, testing::ValuesIn(bad_lengths()), name_of);
INSTANTIATE_TEST_SUITE_P(Json, BadSafetensors, testing::ValuesIn(bad_json()), name_of);
INSTANTIATE_TEST_SUITE_P(Field, BadSafetensors, testing::ValuesIn(bad_fields()), name_of);
INSTANTIATE_TEST_SUITE_P(Offset, BadSafetensors, testing::ValuesIn(bad_offsets()), name_of);

TEST(BadSafetensors, TheUndamagedFileIsAccepted) {
  const TemporaryFolder dir;
  write_bytes(dir / "model.safetensors", kGood);
  EXPECT_EQ(io::open_safetensors(dir.path())->list().size(), 2U);
}

// Nothing that is cut anywhere is accepted; nothing crashes.
TEST(BadSafetensors, EveryTruncationIsRefused) {
  const TemporaryFolder dir;
  for (size_t length = 0; length < kGood.size(); ++length) {
    write_bytes(dir / "model.safetensors", kGood.substr(0, length));
    expect_refused([&] { (void)io::open_safetensors(dir.path()); }, ExitCode::corrupt, {},
                   "length " + std::to_string(length));
  }
}

}  // namespace
}  // namespace longhaul::test
