#include "runtime/io/tokenizer.h"

#include "runtime/core/check.h"
#include "runtime/io/byte_tokenizer.h"

namespace longhaul::io {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_dir,
                                          int64_t vocab_size) {
  const std::filesystem::path file = model_dir / "tokenizer.json";
  std::error_code error;
  if (std::filesystem::exists(file, error)) {
    fail(ExitCode::usage, "{}: byte-level BPE is not read yet; give token ids", file.string());
  }
  if (vocab_size == 256) return std::make_unique<ByteTokenizer>();
  return nullptr;
}

}  // namespace longhaul::io
