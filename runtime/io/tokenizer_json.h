#pragma once
// tokenizer.json of Hugging Face: the format of the `tokenizers` package, version "1.0".

#include <memory>
#include <string>
#include <string_view>

#include "runtime/io/tokenizer.h"

namespace longhaul::io {

// `name` is the file's, for messages. Throws Error(corrupt) for what is malformed and Error(usage),
// by name, for what is well formed and not supported.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace longhaul::io
