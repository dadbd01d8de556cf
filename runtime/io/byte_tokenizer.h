#pragma once
// A model with 256 tokens and no tokenizer.json reads bytes: the token id is the byte.

#include "runtime/io/tokenizer.h"

namespace longhaul::io {

class ByteTokenizer final : public Tokenizer {
 public:
  // Any bytes; there are no special tokens.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  // Ids outside [0, 256) are left out, as ids without a token are by every tokenizer here.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return 256; }
};

}  // namespace longhaul::io
