#include "runtime/io/safetensors_index.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/core/check.h"
#include "runtime/io/json_checked.h"

namespace longhaul::io {
namespace {

constexpr int kMaxDepth = 4;

bool is_plain(std::string_view file) {
  const bool printable = std::all_of(file.begin(), file.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  });
  return printable && !file.starts_with('.') && file.size() <= 255 &&
         file.find_first_of("/\\") == std::string_view::npos && file.ends_with(".safetensors");
}

// Written as an integer; some old tools wrote a whole float.
std::optional<uint64_t> read_total_size(const nlohmann::json& json, const std::string& where) {
  const auto metadata = json.find("metadata");
  if (metadata == json.end() || metadata->is_null()) return std::nullopt;
  if (!metadata->is_object())
    fail(ExitCode::corrupt, "{}: metadata is {}, not an object", where, shown(*metadata));
  const auto size = metadata->find("total_size");
  if (size == metadata->end()) return std::nullopt;
  if (size->is_number_unsigned()) return size->get<uint64_t>();
  if (size->is_number_float()) {
    const double number = size->get<double>();
    if (number >= 0 && number <= 9e15 &&
        number == static_cast<double>(static_cast<uint64_t>(number)))
      return static_cast<uint64_t>(number);
  }
  fail(ExitCode::corrupt, "{}: metadata.total_size is {}, not a number of bytes", where,
       shown(*size));
}

}  // namespace

SafetensorsIndex parse_safetensors_index(std::string_view text, const std::string& where) {
  const nlohmann::json json = parse_json_checked(text, kMaxDepth, where);
  if (!json.is_object()) fail(ExitCode::corrupt, "{}: holds {}, not an object", where, shown(json));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object())
    fail(ExitCode::corrupt, "{}: weight_map is {}, not an object from tensors to files", where,
         map == json.end() ? "missing" : shown(*map));
  if (map->empty()) fail(ExitCode::corrupt, "{}: weight_map names no tensor", where);
  SafetensorsIndex index;
  index.total_size = read_total_size(json, where);
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      fail(ExitCode::corrupt, "{}: the file of {} is {}, not a string", where, in_quotes(name),
           shown(file));
    const auto& file_name = file.get_ref<const std::string&>();
    if (!is_plain(file_name))
      fail(ExitCode::corrupt,
           "{}: the file of {} is {}; only plain names of .safetensors files beside the index are "
           "read",
           where, in_quotes(name), in_quotes(file_name));
    index.weight_map.emplace(name, file_name);
    index.files.insert(file_name);
  }
  return index;
}

}  // namespace longhaul::io
