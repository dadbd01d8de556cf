#pragma once
// Text to token ids and back: tokenizer.json of Hugging Face (byte-level BPE), or plain bytes.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::io {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // `text` is UTF-8. add_special_tokens applies the post-processor's template (Llama-3's
  // <|begin_of_text|>), as `tokenizers` does by default.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      bool add_special_tokens = true) const = 0;
  // Bytes that are not whole UTF-8 characters become U+FFFD. Special tokens are left out when
  // skip_special_tokens.
  virtual std::string decode(std::span<const int32_t> ids,
                             bool skip_special_tokens = true) const = 0;
  virtual int64_t vocab_size() const = 0;
};

// DIR/tokenizer.json where it exists; else a byte tokenizer when vocab_size is 256; else null.
// Throws Error(corrupt) for malformed files and Error(usage), by name, for kinds not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_dir,
                                          int64_t vocab_size);

// The same for a caller that can do without text: where load_tokenizer() gives null or refuses the
// kind, null and one line why, which read_prompts() passes on when a prompt comes as text after
// all. Malformed files still throw.
std::unique_ptr<Tokenizer> load_tokenizer_if_supported(const std::filesystem::path& model_dir,
                                                       int64_t vocab_size, std::string& reason);

}  // namespace longhaul::io
