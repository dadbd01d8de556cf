// Headers of safetensors files.

#include <map>

#include "runtime/io/safetensors_header.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {
namespace {

std::string file(const std::string& json, size_t data_bytes) {
  std::string bytes(8, '\0');
  bytes += json + std::string(data_bytes, 'x');
  const uint64_t length = json.size();
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes;
}

// What a reader relies on in an accepted header.
void check_accepted(const io::SafetensorsHeader& header, uint64_t file_size) {
  uint64_t at = header.header_bytes;
  for (const io::SafetensorsEntry& entry : header.entries) {
    require(entry.begin == at && entry.end >= entry.begin, "tensors do not tile the file");
    const auto bits = io::safetensors_dtype_bits(entry.dtype);
    require(bits.has_value(), "a dtype without a size");
    unsigned __int128 total = static_cast<unsigned>(*bits);
    bool zero = false;
    for (int64_t dim : entry.dims) {
      require(dim >= 0 && dim < (int64_t{1} << 48), "a dimension out of range");
      if (dim == 0) zero = true;
    }
    for (int64_t dim : entry.dims)
      if (!zero) {
        total *= static_cast<uint64_t>(dim);
        require(total <= (static_cast<unsigned __int128>(1) << 64), "a size that overflows");
      }
    require(zero || total == static_cast<unsigned __int128>(entry.end - entry.begin) * 8,
            "a size that does not fit dtype and shape");
    at = entry.end;
  }
  require(at == file_size, "the tensors do not end with the file");
}

}  // namespace

std::vector<std::string> seeds() {
  return {
      file("{}", 0),
      file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
      file(R"({"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
           R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
           R"("__metadata__":{"format":"pt"}}   )",
           16),
      file(R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
           R"("z":{"dtype":"I64","shape":[0,5],"data_offsets":[8,8]},)"
           R"("q":{"dtype":"F4","shape":[2,3],"data_offsets":[8,11]}})",
           11),
      file(R"({"\u00e9\ud83d\ude00":{"dtype":"F16","shape":[1,1,1,1,1],"data_offsets":[0,2]}})", 2),
  };
}

std::vector<std::string> words() {
  return {"\"dtype\"",
          "\"shape\"",
          "\"data_offsets\"",
          "\"__metadata__\"",
          "\"F32\"",
          "\"F6_E2M3\"",
          "\"C64\"",
          "281474976710655",
          "281474976710656",
          "18446744073709551615",
          "18446744073709551616",
          "9223372036854775808",
          "-1",
          "-0",
          "1e9",
          "0.0",
          "null",
          "{}",
          "[]",
          "[[",
          "]]",
          ",",
          ":",
          "{\"a\":",
          "\xff",
          "\xed\xa0\x80",
          "\\u0000",
          "\\ud800",
          " ",
          "\"a\":"};
}

// The length of the JSON, taken to end where the data was in the seed: the last '}' and blanks.
void repair(std::string& input) {
  if (input.size() < 8) return;
  const size_t brace = input.rfind('}');
  if (brace == std::string::npos || brace < 8) return;
  size_t end = brace + 1;
  while (end < input.size() && input[end] == ' ') ++end;
  const uint64_t length = end - 8;
  for (size_t i = 0; i < 8; ++i) input[i] = static_cast<char>((length >> (8 * i)) & 0xff);
}

}  // namespace longhaul::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  fuzz::expect_clean([&] {
    const auto bytes = std::as_bytes(std::span(data, size));
    fuzz::check_accepted(io::parse_safetensors_header(bytes, size, "f"), size);
  });
  return 0;
}
