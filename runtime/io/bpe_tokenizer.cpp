#include "runtime/io/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/nfc.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {

BpeTokenizer::BpeTokenizer(BpeTokenizerParts parts) : parts_(std::move(parts)) {
  for (const AddedToken& token : parts_.added_tokens) {
    const bool added =
        token.normalized
            ? normalized_.add(parts_.nfc ? normalize_nfc(token.content) : token.content, token)
            : given_.add(token.content, token);
    if (!added) {
      fail(ExitCode::corrupt, "the added token {} is empty or there twice",
           quoted_excerpt(token.content));
    }
  }
  for (const auto& [id, token] : parts_.tokens) {
    vocab_size_ = std::max(vocab_size_, int64_t{id} + 1);
  }
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail(ExitCode::corrupt, "the text is not UTF-8 at byte {}", bad);
  }
  std::vector<int32_t> text_ids = encode_text(text);
  if (parts_.pieces.size() == 1 && parts_.pieces.front().is_text) return text_ids;
  std::vector<int32_t> ids;
  for (const auto& piece : parts_.pieces) {
    if (!piece.is_text && !add_special_tokens) continue;
    const std::vector<int32_t>& part = piece.is_text ? text_ids : piece.ids;
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

std::vector<int32_t> BpeTokenizer::encode_text(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4);
  Pretokenizer::Run words(parts_.pretokenizer);
  BpeModel::Scratch scratch;
  const std::function<void(std::string_view)> encode_word = [&](std::string_view word) {
    parts_.model->encode(word, scratch, ids);
  };
  std::vector<AddedTokenMatcher::Piece> given, normalized;
  given_.cut(text, given);
  for (const AddedTokenMatcher::Piece& piece : given) {
    if (piece.token != nullptr) {
      ids.push_back(piece.token->id);
      continue;
    }
    const std::string composed = parts_.nfc ? normalize_nfc(piece.text) : std::string();
    normalized.clear();
    normalized_.cut(parts_.nfc ? std::string_view(composed) : piece.text, normalized);
    for (const AddedTokenMatcher::Piece& part : normalized) {
      if (part.token != nullptr) {
        ids.push_back(part.token->id);
      } else {
        words.words(part.text, encode_word);
      }
    }
  }
  return ids;
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const auto token = parts_.tokens.find(id);
    if (token == parts_.tokens.end()) continue;
    if (skip_special_tokens && token->second.special) continue;
    bytes += token->second.bytes;
  }
  return replace_invalid_utf8(bytes);
}

}  // namespace longhaul::io
