#include "tests/unit/checkpoint/checkpoint_files.h"

#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace longhaul::test {

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "longhaul-test-XXXXXX").string();
  LH_CHECK(::mkdtemp(name.data()) != nullptr, "{}", name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_bytes(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream out(file, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  LH_CHECK(out.good(), "{}", file.string());
}

std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  LH_CHECK(in.good(), "{}", file.string());
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string safetensors_bytes(std::string_view json, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i)
    bytes += static_cast<char>((static_cast<uint64_t>(json.size()) >> (8 * i)) & 0xff);
  return bytes + std::string(json) + std::string(data);
}

std::string safetensors_bytes(std::string_view json, size_t data_bytes) {
  return safetensors_bytes(json, std::string(data_bytes, '\0'));
}

void expect_refused(const std::function<void()>& action, ExitCode code,
                    const std::vector<std::string>& parts, const std::string& label) {
  try {
    action();
    ADD_FAILURE() << label << ": was accepted";
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << label << ": " << message;
    EXPECT_TRUE(
        std::all_of(message.begin(), message.end(), [](char c) { return c >= 0x20 && c < 0x7f; }))
        << label << ": not one printable line: " << message;
    EXPECT_LT(message.size(), 600U) << label << ": " << message;
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos)
          << label << ": '" << part << "' is not in: " << message;
  }
}

}  // namespace longhaul::test
