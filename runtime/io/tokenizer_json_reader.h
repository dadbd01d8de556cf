#pragma once
// Between the two files that read tokenizer.json; nobody else includes this.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/core/check.h"
#include "runtime/io/bpe_tokenizer.h"

namespace longhaul::io::tokenizer_json {

using Json = nlohmann::json;

// A value of the file and how a person would name its place ("model.vocab").
struct Node {
  const Json* value;
  std::string place;

  // Null where the key is missing or holds null. Throws where this is no object.
  std::optional<Node> find(const char* key) const;
  Node at(const char* key) const;  // throws where it is missing
  Node at(size_t index) const;
  std::string text() const;
  bool boolean() const;
  bool boolean(const char* key, bool otherwise) const;
  int32_t token_id() const;
  const Json::array_t& list() const;
  const Json::object_t& object() const;
  // The "type" of a part; empty where there is none.
  std::string type() const;

  [[noreturn]] void malformed(const std::string& what) const;
  [[noreturn]] void wrong_type(const char* wanted) const;
  [[noreturn]] void unsupported(const std::string& what) const;  // "WHAT is not supported ..."
  [[noreturn]] void refuse(const std::string& why) const;        // "WHY; give token ids ..."
};

bool read_normalizer_is_nfc(const std::optional<Node>& normalizer);
Pretokenizer read_pretokenizer(const std::optional<Node>& pretokenizer, const Node& whole);
void check_decoder(const std::optional<Node>& decoder, const Node& whole);
std::vector<BpeTokenizerParts::TemplatePiece> read_template(const std::optional<Node>& processor);

}  // namespace longhaul::io::tokenizer_json
