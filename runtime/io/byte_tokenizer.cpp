#include "runtime/io/byte_tokenizer.h"

#include "runtime/io/utf8.h"

namespace longhaul::io {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text, bool) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int32_t> ids, bool) const {
  std::string bytes;
  bytes.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id >= 0 && id < 256) bytes.push_back(static_cast<char>(id));
  }
  return replace_invalid_utf8(bytes);
}

}  // namespace longhaul::io
