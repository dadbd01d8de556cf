// model.safetensors.index.json.

#include "runtime/io/safetensors_index.h"
#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace longhaul::fuzz {

std::vector<std::string> seeds() {
  return {
      R"({"weight_map":{"a":"x.safetensors"}})",
      R"({"metadata":{"total_size":16,"total_parameters":8},"weight_map":{)"
      R"("lm_head.weight":"model-00002-of-00002.safetensors",)"
      R"("model.norm.weight":"model-00001-of-00002.safetensors"}})",
      R"({"metadata":{"total_size":16.0,"extra":[1,{"k":null}]},"weight_map":{"a":"b.safetensors"}})",
  };
}

std::vector<std::string> words() {
  return {"\"weight_map\"",
          "\"metadata\"",
          "\"total_size\"",
          ".safetensors",
          "../",
          "/",
          "..",
          "\\\\",
          "\\u0000",
          "\\n",
          "-1",
          "1e30",
          "0.5",
          "18446744073709551616",
          "null",
          "true",
          "{}",
          "[]",
          "[[[[[",
          "\xff",
          "\xc0\xaf",
          "\\udfff",
          ",",
          ":",
          "\"a\":"};
}

void repair(std::string&) {}

}  // namespace longhaul::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  fuzz::expect_clean([&] {
    const io::SafetensorsIndex index = io::parse_safetensors_index(fuzz::text_of(data, size), "f");
    fuzz::require(!index.weight_map.empty() && !index.files.empty(), "an empty index");
    for (const std::string& file : index.files) {
      fuzz::require(file.find('/') == std::string::npos, "a file name with a slash");
      fuzz::require(file.find('\0') == std::string::npos, "a file name with a NUL byte");
      fuzz::require(file.front() != '.', "a file name with a leading dot");
    }
  });
  return 0;
}
