#pragma once
// What a fuzz target offers beside LLVMFuzzerTestOneInput: seeds and words for the driver that
// mutates them without libFuzzer, and the check that both use.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace longhaul::fuzz {

std::vector<std::string> seeds();
std::vector<std::string> words();  // fragments that mutations put in
void repair(std::string& input);   // makes the outermost layer right again, such as a length

// Runs `parse`; aborts unless it returns or throws an Error of exit code 2, 3 or 4 whose message is
// one short printable line.
void expect_clean(const std::function<void()>& parse);
// Aborts with `what` unless `holds`.
void require(bool holds, const char* what);

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace longhaul::fuzz
