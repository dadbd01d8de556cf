#pragma once
// Typed access to the keys of one JSON object of a config file. Every complaint names file, key and
// value; keys that nobody asked for are known afterwards.

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::io {

class ConfigReader {
 public:
  // `object` must outlive the reader. `prefix` stands before key names in messages
  // ("rope_scaling."). Throws Error(corrupt) when it is no object.
  ConfigReader(const nlohmann::json& object, std::string where, std::string prefix = "");

  // The value, or null where the key is absent or null. Marks the key as read.
  const nlohmann::json* get(std::string_view key);
  bool has(std::string_view key) { return get(key) != nullptr; }
  bool is_null(std::string_view key) const;  // present, and null

  // An absent or null key gives `fallback`, which is checked like a given value. Throw
  // Error(corrupt) for another type or a value outside [low, high].
  int64_t integer(std::string_view key, int64_t fallback, int64_t low, int64_t high);
  double number(std::string_view key, double fallback, double low, double high);
  bool boolean(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::string_view fallback);
  // A list of integers, or one integer, or nothing.
  std::vector<int64_t> integers(std::string_view key);

  void ignore(std::initializer_list<std::string_view> keys);
  std::vector<std::string> unread() const;  // with the prefix, sorted

  const std::string& where() const { return where_; }
  std::string name_of(std::string_view key) const { return prefix_ + std::string(key); }
  // "FILE: KEY is VALUE" for messages.
  std::string describe(std::string_view key) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::string prefix_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace longhaul::io
