#pragma once
// Tokens that stand outside the byte-pair model: found in the text before anything else is done to
// it, and never cut.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longhaul::io {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character stands on either side
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalized text, else in the text as given
  bool special = false;      // left out by decode(skip_special_tokens)
};

// Finds any of a set of tokens, leftmost first, longest where several begin at the same place.
class AddedTokenMatcher {
 public:
  // `token` outlives this; false when the same pattern is there already.
  bool add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  struct Piece {
    const AddedToken* token;  // null: plain text
    std::string_view text;
  };
  // Cuts `text` (valid UTF-8) at the tokens, in order; plain pieces are not empty. The rules of
  // `single_word`, `lstrip` and `rstrip` are those of the `tokenizers` package.
  void cut(std::string_view text, std::vector<Piece>& pieces) const;

 private:
  // Length of the longest pattern at text[at], and its token; 0 for none.
  size_t longest_at(std::string_view text, size_t at, const AddedToken*& token) const;

  std::unordered_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node; 0 is the root
  std::vector<const AddedToken*> ends_{nullptr};  // per node: the token whose pattern ends there
  std::vector<const AddedToken*> tokens_;
  bool first_byte_[256] = {};
};

}  // namespace longhaul::io
