#include "runtime/io/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/json_checked.h"

namespace longhaul::io {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr int kMaxDepth = 4;
constexpr uint64_t kMaxDim = (uint64_t{1} << 48) - 1;
constexpr size_t kMaxDims = 64;

constexpr std::pair<std::string_view, int> kDtypeBits[] = {
    {"BOOL", 8},    {"U8", 8},          {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F4", 4},      {"F6_E2M3", 6},
    {"F6_E3M2", 6}, {"I16", 16},        {"U16", 16},        {"F16", 16},    {"BF16", 16},
    {"I32", 32},    {"U32", 32},        {"F32", 32},        {"I64", 64},    {"U64", 64},
    {"F64", 64},    {"C64", 64}};

uint64_t read_length(std::span<const std::byte> bytes) {
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[i])) << (8 * i);
  return length;
}

// The JSON part, after the checks of length and first byte.
std::string_view header_text(std::span<const std::byte> file_start, uint64_t file_size,
                             const std::string& where) {
  if (file_size < kLengthBytes || file_start.size() < kLengthBytes)
    fail(ExitCode::corrupt, "{}: {} bytes, too short for a safetensors file; fetch it again", where,
         file_size);
  const uint64_t length = read_length(file_start);
  if (length > kMaxHeader)
    fail(ExitCode::corrupt,
         "{}: the header claims {} bytes, more than {}; is it a safetensors file?", where, length,
         kMaxHeader);
  if (length > file_size - kLengthBytes || length > file_start.size() - kLengthBytes)
    fail(ExitCode::corrupt,
         "{}: the header claims {} bytes but the file ends after {}; it was cut short, fetch it "
         "again",
         where, length, file_size - kLengthBytes);
  const std::string_view text(reinterpret_cast<const char*>(file_start.data()) + kLengthBytes,
                              static_cast<size_t>(length));
  if (text.empty() || text.front() != '{')
    fail(ExitCode::corrupt, "{}: the header does not begin with '{{'; is it a safetensors file?",
         where);
  return text;
}

void check_metadata(const nlohmann::json& metadata, const std::string& where) {
  if (!metadata.is_object())
    fail(ExitCode::corrupt, "{}: __metadata__ is {}, not an object", where, shown(metadata));
  for (const auto& [key, value] : metadata.items())
    if (!value.is_string())
      fail(ExitCode::corrupt, "{}: __metadata__ {} is {}, not a string", where, in_quotes(key),
           shown(value));
}

// "FILE: tensor 'NAME'"
std::string tensor_place(const std::string& where, const std::string& name) {
  return fmt::format("{}: tensor {}", where, in_quotes(name));
}

uint64_t whole_number(const nlohmann::json& value, uint64_t high, std::string_view what,
                      const std::string& place) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > high)
    fail(ExitCode::corrupt, "{}: {} holds {}; expected whole numbers from 0 to {}", place, what,
         shown(value), high);
  return value.get<uint64_t>();
}

const nlohmann::json& member(const nlohmann::json& object, const char* key,
                             const std::string& place) {
  const auto it = object.find(key);
  if (it == object.end()) fail(ExitCode::corrupt, "{}: has no {}", place, key);
  return *it;
}

uint64_t bytes_of(const SafetensorsEntry& entry, int bits, const std::string& place) {
  uint64_t total_bits = static_cast<uint64_t>(bits);
  for (int64_t dim : entry.dims)
    if (__builtin_mul_overflow(total_bits, static_cast<uint64_t>(dim), &total_bits))
      fail(ExitCode::corrupt, "{}: the product of its dimensions overflows", place);
  if (total_bits % 8 != 0)
    fail(ExitCode::corrupt, "{}: {} bits do not fill whole bytes", place, total_bits);
  return total_bits / 8;
}

// Offsets relative to the data are given back in begin and end.
SafetensorsEntry parse_entry(const std::string& name, const nlohmann::json& value,
                             const std::string& where) {
  const std::string place = tensor_place(where, name);
  if (!value.is_object()) fail(ExitCode::corrupt, "{}: is {}, not an object", place, shown(value));
  SafetensorsEntry entry;
  entry.name = name;
  const nlohmann::json& dtype = member(value, "dtype", place);
  if (!dtype.is_string())
    fail(ExitCode::corrupt, "{}: dtype is {}, not a string", place, shown(dtype));
  entry.dtype = dtype.get<std::string>();
  const std::optional<int> bits = safetensors_dtype_bits(entry.dtype);
  if (!bits) fail(ExitCode::corrupt, "{}: unknown dtype {}", place, in_quotes(entry.dtype));

  const nlohmann::json& shape = member(value, "shape", place);
  if (!shape.is_array() || shape.size() > kMaxDims)
    fail(ExitCode::corrupt, "{}: shape is {}; expected a list of at most {} numbers", place,
         shown(shape), kMaxDims);
  for (const nlohmann::json& dim : shape)
    entry.dims.push_back(static_cast<int64_t>(whole_number(dim, kMaxDim, "shape", place)));

  const nlohmann::json& offsets = member(value, "data_offsets", place);
  if (!offsets.is_array() || offsets.size() != 2)
    fail(ExitCode::corrupt, "{}: data_offsets is {}; expected two numbers", place, shown(offsets));
  constexpr uint64_t any = ~uint64_t{0};
  entry.begin = whole_number(offsets[0], any, "data_offsets", place);
  entry.end = whole_number(offsets[1], any, "data_offsets", place);
  if (value.size() != 3)
    fail(ExitCode::corrupt, "{}: has keys beside dtype, shape and data_offsets", place);
  const uint64_t bytes = bytes_of(entry, *bits, place);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    fail(ExitCode::corrupt, "{}: data_offsets [{}, {}] do not fit {} bytes of dtype and shape",
         place, entry.begin, entry.end, bytes);
  return entry;
}

// Sorted entries must tile [0, data_bytes) exactly.
void check_tiling(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                  const std::string& where) {
  uint64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != expected)
      fail(ExitCode::corrupt,
           "{}: begins at byte {} of the data, but the one before it ends at {} ({})",
           tensor_place(where, entry.name), entry.begin, expected,
           entry.begin < expected ? "they overlap" : "bytes that belong to nothing");
    expected = entry.end;
    if (expected > data_bytes)
      fail(ExitCode::corrupt,
           "{}: ends at byte {} of the data but the file has only {}; it was cut short, fetch it "
           "again",
           tensor_place(where, entry.name), entry.end, data_bytes);
  }
  if (expected != data_bytes)
    fail(ExitCode::corrupt, "{}: {} bytes after the last tensor belong to nothing", where,
         data_bytes - expected);
}

}  // namespace

std::optional<int> safetensors_dtype_bits(std::string_view dtype) {
  for (const auto& [name, bits] : kDtypeBits)
    if (name == dtype) return bits;
  return std::nullopt;
}

std::optional<DType> weight_dtype(std::string_view safetensors_dtype) {
  if (safetensors_dtype == "BF16") return DType::bf16;
  if (safetensors_dtype == "F16") return DType::f16;
  if (safetensors_dtype == "F32") return DType::f32;
  if (safetensors_dtype == "F64") return DType::f64;
  return std::nullopt;
}

std::string_view safetensors_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  LH_CHECK(false, "dtype {}", static_cast<int>(dtype));
  return "";
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file_start,
                                           uint64_t file_size, const std::string& where) {
  const std::string_view text = header_text(file_start, file_size, where);
  const nlohmann::json json = parse_json_checked(text, kMaxDepth, where + ": header");
  SafetensorsHeader header;
  header.header_bytes = kLengthBytes + text.size();
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__")
      check_metadata(value, where);
    else
      header.entries.push_back(parse_entry(name, value, where));
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_tiling(header.entries, file_size - header.header_bytes, where);
  for (SafetensorsEntry& entry : header.entries) {
    entry.begin += header.header_bytes;
    entry.end += header.header_bytes;
  }
  return header;
}

}  // namespace longhaul::io
