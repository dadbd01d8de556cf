#include "runtime/io/config_reader.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/json_checked.h"

namespace longhaul::io {
namespace {

// JSON integers past int64_t come as uint64_t; none of ours is that large, so they saturate and
// then fail the range check.
int64_t saturated(const nlohmann::json& value) {
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return std::numeric_limits<int64_t>::max();
  return value.get<int64_t>();
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& object, std::string where, std::string prefix)
    : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {
  if (object.is_object()) return;
  if (prefix_.empty())
    fail(ExitCode::corrupt, "{}: holds {}, not an object", where_, shown(object));
  fail(ExitCode::corrupt, "{}: {} is {}; it must be an object", where_,
       prefix_.substr(0, prefix_.size() - 1), shown(object));
}

const nlohmann::json* ConfigReader::get(std::string_view key) {
  read_.emplace(key);
  const auto it = object_.find(std::string(key));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool ConfigReader::is_null(std::string_view key) const {
  const auto it = object_.find(std::string(key));
  return it != object_.end() && it->is_null();
}

std::string ConfigReader::describe(std::string_view key) const {
  const auto it = object_.find(std::string(key));
  if (it == object_.end()) return fmt::format("{}: {} is not given", where_, name_of(key));
  return fmt::format("{}: {} is {}", where_, name_of(key), shown(*it));
}

int64_t ConfigReader::integer(std::string_view key, int64_t fallback, int64_t low, int64_t high) {
  const nlohmann::json* value = get(key);
  if (value != nullptr && !value->is_number_integer())
    fail(ExitCode::corrupt, "{}; it must be a whole number", describe(key));
  const int64_t number = value != nullptr ? saturated(*value) : fallback;
  if (number < low || number > high)
    fail(ExitCode::corrupt, "{}: {} is {}{}; it must be from {} to {}", where_, name_of(key),
         value != nullptr ? shown(*value) : fmt::format("{}", fallback),
         value != nullptr ? "" : " (the default)", low, high);
  return number;
}

double ConfigReader::number(std::string_view key, double fallback, double low, double high) {
  const nlohmann::json* value = get(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) fail(ExitCode::corrupt, "{}; it must be a number", describe(key));
  const double number = value->get<double>();
  if (!(number >= low && number <= high))
    fail(ExitCode::corrupt, "{}; it must be from {} to {}", describe(key), low, high);
  return number;
}

bool ConfigReader::boolean(std::string_view key, bool fallback) {
  const nlohmann::json* value = get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail(ExitCode::corrupt, "{}; it must be true or false", describe(key));
  return value->get<bool>();
}

std::string ConfigReader::text(std::string_view key, std::string_view fallback) {
  const nlohmann::json* value = get(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) fail(ExitCode::corrupt, "{}; it must be a string", describe(key));
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::integers(std::string_view key) {
  const nlohmann::json* value = get(key);
  if (value == nullptr) return {};
  if (value->is_number_integer()) return {saturated(*value)};
  if (!value->is_array())
    fail(ExitCode::corrupt, "{}; it must be a list of whole numbers", describe(key));
  std::vector<int64_t> numbers;
  for (const nlohmann::json& element : *value) {
    if (!element.is_number_integer())
      fail(ExitCode::corrupt, "{}: {} holds {}; it must be a list of whole numbers", where_,
           name_of(key), shown(element));
    numbers.push_back(saturated(element));
  }
  return numbers;
}

void ConfigReader::ignore(std::initializer_list<std::string_view> keys) {
  for (std::string_view key : keys) read_.emplace(key);
}

std::vector<std::string> ConfigReader::unread() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items())
    if (!read_.contains(key)) keys.push_back(name_of(key));
  return keys;
}

}  // namespace longhaul::io
