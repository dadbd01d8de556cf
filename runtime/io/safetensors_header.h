#pragma once
// The header of a safetensors file: 8 bytes of length (little endian), that many bytes of JSON,
// then the tensors' bytes without gaps (https://github.com/huggingface/safetensors, "Format").

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/dtype.h"

namespace longhaul::io {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "BF16", ...; one of the format's names
  std::vector<int64_t> dims;
  uint64_t begin = 0, end = 0;  // bytes from the start of the file
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order
  uint64_t header_bytes = 0;              // 8 + the JSON's length: where the first tensor begins
};

// `file_start` is the beginning of the file, at least the header; `file_size` its size. Checks all
// of: at least 8 bytes; header at most 100 MB and inside the file, beginning with '{', UTF-8, JSON
// at most 4 deep, no key twice; __metadata__ from string to string; known dtypes; dims of at most
// 2^48 - 1 whose product in bits does not overflow and fills whole bytes; offsets that agree with
// dtype and shape, begin at 0, leave no gap, do not overlap, and end with the file.
// Throws Error(corrupt) beginning with `where`.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file_start,
                                           uint64_t file_size, const std::string& where);

// Bits of an element; nothing for a name that the format does not know.
std::optional<int> safetensors_dtype_bits(std::string_view dtype);
// The type in which longhaul reads it; nothing for types that no weight of ours has.
std::optional<DType> weight_dtype(std::string_view safetensors_dtype);
std::string_view safetensors_dtype_name(DType dtype);

}  // namespace longhaul::io
