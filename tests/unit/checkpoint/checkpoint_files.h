#pragma once
// Folders and safetensors files made for one test, and the check that a bad one is refused well.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul::test {

// A folder of its own, removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void write_bytes(const std::filesystem::path& file, std::string_view bytes);
std::string read_bytes(const std::filesystem::path& file);

// Length, header, data: the bytes of a safetensors file whose header is `json` as it stands.
std::string safetensors_bytes(std::string_view json, size_t data_bytes);
std::string safetensors_bytes(std::string_view json, std::string_view data);

// Runs `action`, which must throw an Error with this exit code whose message is one printable line
// that contains each of `parts`.
void expect_refused(const std::function<void()>& action, ExitCode code,
                    const std::vector<std::string>& parts, const std::string& label);

}  // namespace longhaul::test
