#pragma once
// tokenizer.json with a byte-level BPE model, put together: added tokens, normalizer,
// pre-tokenizer, merges, template.

#include <memory>
#include <unordered_map>

#include "runtime/io/added_tokens.h"
#include "runtime/io/bpe_model.h"
#include "runtime/io/pretokenizer.h"
#include "runtime/io/tokenizer.h"

namespace longhaul::io {

// What the parser of tokenizer.json hands over.
struct BpeTokenizerParts {
  std::unique_ptr<const BpeModel> model;
  Pretokenizer pretokenizer;
  bool nfc = false;
  std::vector<AddedToken> added_tokens;  // with ids; contents and patterns differ from each other
  // The post-processor's template: ids to put down, and where the text goes.
  struct TemplatePiece {
    bool is_text = false;
    std::vector<int32_t> ids;
  };
  std::vector<TemplatePiece> pieces{{true, {}}};
  struct Token {
    std::string bytes;  // as decode writes them
    bool special = false;
  };
  std::unordered_map<int32_t, Token> tokens;  // every id that has one
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeTokenizerParts parts);
  BpeTokenizer(const BpeTokenizer&) = delete;
  BpeTokenizer& operator=(const BpeTokenizer&) = delete;

  // Throws Error(corrupt) for text that is not UTF-8, with the byte.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  // Ids that name no token are left out, as by the `tokenizers` package.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  // One past the largest id that names a token.
  int64_t vocab_size() const override { return vocab_size_; }

 private:
  std::vector<int32_t> encode_text(std::string_view text) const;

  BpeTokenizerParts parts_;
  AddedTokenMatcher given_;       // looked for in the text as given
  AddedTokenMatcher normalized_;  // looked for in the normalized text
  int64_t vocab_size_ = 0;
};

}  // namespace longhaul::io
