#include "runtime/io/added_tokens.h"

#include <algorithm>

#include "runtime/io/unicode_tables.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

size_t white_space_at_start(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint point = code_point_at(text, at);
    if (!is_white_space(point.value)) break;
    at += static_cast<size_t>(point.length);
  }
  return at;
}

// Where the white space at the end of text begins.
size_t white_space_at_end(std::string_view text) {
  size_t at = text.size();
  while (at > 0) {
    const CodePoint point = code_point_before(text, at);
    if (!is_white_space(point.value)) break;
    at -= static_cast<size_t>(point.length);
  }
  return at;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word_character(code_point_before(text, begin).value)) return false;
  return end == text.size() || !is_word_character(code_point_at(text, end).value);
}

uint64_t edge(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

bool AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  uint32_t node = 0;
  for (const char byte : pattern) {
    const auto [at, is_new] =
        edges_.try_emplace(edge(node, byte), static_cast<uint32_t>(ends_.size()));
    if (is_new) ends_.push_back(nullptr);
    node = at->second;
  }
  if (node == 0 || ends_[node] != nullptr) return false;
  ends_[node] = &token;
  tokens_.push_back(&token);
  first_byte_[static_cast<unsigned char>(pattern.front())] = true;
  return true;
}

size_t AddedTokenMatcher::longest_at(std::string_view text, size_t at,
                                     const AddedToken*& token) const {
  size_t length = 0;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto next = edges_.find(edge(node, text[i]));
    if (next == edges_.end()) break;
    node = next->second;
    if (ends_[node] != nullptr) {
      token = ends_[node];
      length = i + 1 - at;
    }
  }
  return length;
}

void AddedTokenMatcher::cut(std::string_view text, std::vector<Piece>& pieces) const {
  size_t done = 0;       // everything before is in `pieces`
  size_t space_end = 0;  // of the white space that the last `rstrip` took
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = nullptr;
    const size_t length =
        first_byte_[static_cast<unsigned char>(text[at])] ? longest_at(text, at, token) : 0;
    if (length == 0) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + length;
    at = end;  // also where the match is refused: the search goes on behind it
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) {
      begin = begin > done ? done + white_space_at_end(text.substr(done, begin - done)) : done;
    }
    if (token->rstrip) {
      // Tokens of white space may match again and again in one run: look for its end once.
      if (end > space_end) space_end = end + white_space_at_start(text.substr(end));
      end = space_end;
    }
    if (done < begin) pieces.push_back({nullptr, text.substr(done, begin - done)});
    // Nothing is left of a match inside white space that the token before it took.
    if (begin < end) pieces.push_back({token, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) pieces.push_back({nullptr, text.substr(done)});
}

}  // namespace longhaul::io
