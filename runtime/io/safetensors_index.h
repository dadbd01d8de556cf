#pragma once
// model.safetensors.index.json: which shard holds which tensor.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace longhaul::io {

struct SafetensorsIndex {
  std::map<std::string, std::string, std::less<>> weight_map;  // tensor name -> file name
  std::set<std::string> files;
  std::optional<uint64_t> total_size;  // bytes of all tensors, where given
};

// Throws Error(corrupt) beginning with `where` for malformed text and for file names that are not
// plain (with '/', "..", a leading dot, control characters, or no .safetensors at the end): a
// checkpoint must not be able to make us open files elsewhere.
SafetensorsIndex parse_safetensors_index(std::string_view text, const std::string& where);

}  // namespace longhaul::io
