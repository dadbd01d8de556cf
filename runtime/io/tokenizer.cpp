#include "runtime/io/tokenizer.h"

#include "runtime/core/check.h"
#include "runtime/io/byte_tokenizer.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/tokenizer_json.h"

namespace longhaul::io {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_dir,
                                          int64_t vocab_size) {
  const std::filesystem::path file = model_dir / "tokenizer.json";
  std::error_code error;
  if (std::filesystem::exists(file, error)) {
    return parse_tokenizer_json(read_text_file(file), file.string());
  }
  if (vocab_size == 256) return std::make_unique<ByteTokenizer>();
  return nullptr;
}

std::unique_ptr<Tokenizer> load_tokenizer_if_supported(const std::filesystem::path& model_dir,
                                                       int64_t vocab_size, std::string& reason) {
  try {
    if (auto tokenizer = load_tokenizer(model_dir, vocab_size)) return tokenizer;
  } catch (const Error& error) {
    if (error.code() != ExitCode::usage) throw;
    reason = error.what();
    return nullptr;
  }
  std::error_code error;
  const bool sentencepiece = std::filesystem::exists(model_dir / "tokenizer.model", error);
  reason = fmt::format(
      "{} has no tokenizer.json{}", model_dir.string(),
      sentencepiece ? ", and its tokenizer.model (SentencePiece) is not supported" : "");
  return nullptr;
}

}  // namespace longhaul::io
