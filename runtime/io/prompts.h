#pragma once
// Prompt files: .json (a list of token-id lists) or .jsonl (objects with `tokens` or `text`, and
// optional `id` and `answer`; other keys are ignored).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/io/tokenizer.h"

namespace longhaul::io {

struct Prompt {
  std::string id;                     // as given, else "0", "1", ...
  std::vector<int32_t> tokens;        // never empty
  std::optional<std::string> text;    // where the prompt came as text
  std::optional<std::string> answer;  // what the generated text should begin with
};

// Throws Error(corrupt) with file and line (JSONL) or index for malformed input, Error(usage) for
// an empty prompt, a token id outside [0, vocab_size), text without a tokenizer, or a file that is
// not there or of another kind. An object with both `tokens` and `text` is refused (corrupt): which
// was meant is not ours to guess; null counts as absent; numbers are accepted for `id` and
// `answer`, as written. Two prompts may share an id. `no_tokenizer_reason` says why `tokenizer` is
// null (tokenizer.h).
std::vector<Prompt> read_prompts(const std::filesystem::path& file, const Tokenizer* tokenizer,
                                 int64_t vocab_size, const std::string& no_tokenizer_reason = {});

enum class PromptFormat { json, json_lines };
// The same from memory; `name` stands for the file in messages.
std::vector<Prompt> parse_prompts(std::string_view content, PromptFormat format,
                                  const std::string& name, const Tokenizer* tokenizer,
                                  int64_t vocab_size, const std::string& no_tokenizer_reason = {});

}  // namespace longhaul::io
