#include "runtime/io/tokenizer_json.h"

#include <array>
#include <unordered_set>

#include "runtime/core/log.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/nfc.h"
#include "runtime/io/tokenizer_json_reader.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace tokenizer_json {

void Node::malformed(const std::string& what) const {
  fail(ExitCode::corrupt, "{}: {}", place, what);
}
void Node::unsupported(const std::string& what) const {
  refuse(what + " is not supported (byte-level BPE is)");
}
void Node::refuse(const std::string& why) const {
  fail(ExitCode::usage, "{}: {}; give token ids (\"tokens\") instead of text", place, why);
}
void Node::wrong_type(const char* wanted) const {
  const std::string type = value->type_name();
  const char* article = type == "array" || type == "object" ? "an " : type == "null" ? "" : "a ";
  malformed(fmt::format("is {}{}, not {}", article, type, wanted));
}
std::optional<Node> Node::find(const char* key) const {
  const auto at = object().find(key);
  if (at == object().end() || at->second.is_null()) return std::nullopt;
  return Node{&at->second, place + "." + key};
}
Node Node::at(const char* key) const {
  std::optional<Node> node = find(key);
  if (!node) malformed(fmt::format("\"{}\" is missing", key));
  return std::move(*node);
}
Node Node::at(size_t index) const {
  return {&list().at(index), fmt::format("{}[{}]", place, index)};
}
std::string Node::text() const {
  if (!value->is_string()) wrong_type("a string");
  return value->get<std::string>();
}
bool Node::boolean() const {
  if (!value->is_boolean()) wrong_type("true or false");
  return value->get<bool>();
}
bool Node::boolean(const char* key, bool otherwise) const {
  const std::optional<Node> node = find(key);
  return node ? node->boolean() : otherwise;
}
int32_t Node::token_id() const {
  if (!value->is_number_unsigned() || value->get<uint64_t>() >= 0x7FFFFFFF) {
    malformed("is not a token id (a whole number from 0)");
  }
  return static_cast<int32_t>(value->get<uint64_t>());
}
const Json::array_t& Node::list() const {
  if (!value->is_array()) wrong_type("an array");
  return value->get_ref<const Json::array_t&>();
}
const Json::object_t& Node::object() const {
  if (!value->is_object()) wrong_type("an object");
  return value->get_ref<const Json::object_t&>();
}
std::string Node::type() const {
  const std::optional<Node> node = find("type");
  return node ? node->text() : "";
}

namespace {

// GPT-2's alphabet: each byte stands as a printable character; these are the characters by byte,
// and the bytes by character.
struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<int, 0x144> byte{};  // -1 where no byte stands so

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? b : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};

// The bytes that a token stands for; nothing where one of its characters is not of the alphabet.
std::optional<std::string> token_bytes(const ByteAlphabet& alphabet, std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const CodePoint point = code_point_at(token, at);
    if (point.length < 0 || point.value >= alphabet.byte.size() || alphabet.byte[point.value] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(alphabet.byte[point.value]));
    at += static_cast<size_t>(point.length);
  }
  return bytes;
}

using Vocabulary = std::unordered_map<std::string_view, int32_t>;

Vocabulary read_vocabulary(const Node& vocab) {
  Vocabulary ids;
  ids.reserve(vocab.object().size());
  std::unordered_set<int32_t> seen;
  for (const auto& [token, value] : vocab.object()) {
    const Node node{&value, vocab.place + "." + quoted_excerpt(token)};
    const int32_t id = node.token_id();
    if (!seen.insert(id).second)
      node.malformed(fmt::format("id {} belongs to another token too", id));
    ids.emplace(token, id);
  }
  return ids;
}

std::pair<std::string_view, std::string_view> read_pair(const Node& merge) {
  if (merge.value->is_string()) {
    const std::string_view text = merge.value->get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      merge.malformed(
          fmt::format("{} is not two tokens with one space between", quoted_excerpt(text)));
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }
  const Json::array_t& two = merge.list();
  if (two.size() != 2 || !two[0].is_string() || !two[1].is_string()) {
    merge.malformed("is not two tokens");
  }
  return {two[0].get_ref<const std::string&>(), two[1].get_ref<const std::string&>()};
}

std::vector<BpeModel::Merge> read_merges(const Node& merges, const Vocabulary& vocabulary) {
  std::vector<BpeModel::Merge> read;
  read.reserve(merges.list().size());
  for (size_t i = 0; i < merges.list().size(); ++i) {
    const Json& value = merges.list()[i];
    if (value.is_string() && value.get_ref<const std::string&>().starts_with("#version")) continue;
    if (value.type() != merges.list()[0].type()) {
      merges.at(i).malformed("is not spelled as the first merge is");
    }
    const auto id = [&](const std::string_view token) {
      const auto at = vocabulary.find(token);
      if (at == vocabulary.end()) {
        merges.at(i).malformed(fmt::format("{} is not in the vocabulary", quoted_excerpt(token)));
      }
      return at->second;
    };
    const auto [left, right] = read_pair(merges.at(i));
    read.push_back({id(left), id(right), id(std::string(left) + std::string(right))});
  }
  return read;
}

// Settings under which other merges or other symbols would be made.
void check_model_settings(const Node& model) {
  const std::string type = model.type();
  if (!type.empty() && type != "BPE") {
    model.unsupported(fmt::format("type {}", quoted_excerpt(type)));
  }
  if (type.empty() && !model.find("merges")) model.unsupported("a model without \"merges\"");
  if (const auto dropout = model.find("dropout")) {
    if (!dropout->value->is_number()) dropout->malformed("is not a number");
    if (dropout->value->get<double>() != 0) dropout->unsupported("dropout");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.find(key);
    if (affix && !affix->text().empty()) affix->unsupported(key);
  }
  if (model.boolean("byte_fallback", false)) model.unsupported("byte_fallback");
  // Without effect, since every byte must have its token.
  if (const auto unknown = model.find("unk_token")) unknown->text();
  model.boolean("fuse_unk", false);
}

std::unique_ptr<const BpeModel> read_model(const Node& model, const Vocabulary& vocabulary,
                                           const ByteAlphabet& alphabet) {
  std::array<int32_t, 256> byte_ids{};
  for (size_t b = 0; b < 256; ++b) {
    std::string token;
    append_utf8(token, alphabet.character[b]);
    const auto at = vocabulary.find(token);
    if (at == vocabulary.end()) {
      model.unsupported(fmt::format("a vocabulary without a token of the byte 0x{:02X}", b));
    }
    byte_ids[b] = at->second;
  }
  auto read = std::make_unique<BpeModel>(byte_ids, read_merges(model.at("merges"), vocabulary));
  if (model.boolean("ignore_merges", false)) {
    std::unordered_map<std::string, int32_t> words;
    words.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary) {
      if (auto bytes = token_bytes(alphabet, token)) words.emplace(std::move(*bytes), id);
    }
    read->set_whole_words(std::move(words));
  }
  return read;
}

// The package takes a token's id from the vocabulary, else counts on from its size in the order of
// the list; the id that the file states is not looked at.
std::vector<AddedToken> read_added_tokens(const std::optional<Node>& list,
                                          const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (!list) return tokens;
  std::unordered_map<std::string, size_t> known;
  auto next = static_cast<int32_t>(vocabulary.size());
  for (size_t i = 0; i < list->list().size(); ++i) {
    const Node node = list->at(i);
    AddedToken token;
    token.content = node.at("content").text();
    token.single_word = node.at("single_word").boolean();
    token.lstrip = node.at("lstrip").boolean();
    token.rstrip = node.at("rstrip").boolean();
    token.normalized = node.at("normalized").boolean();
    token.special = node.at("special").boolean();
    const int32_t stated = node.at("id").token_id();
    if (token.content.empty()) continue;
    if (const auto again = known.find(token.content); again != known.end()) {
      token.id = tokens[again->second].id;
      tokens[again->second] = token;
      continue;
    }
    const auto in_model = vocabulary.find(token.content);
    token.id = in_model != vocabulary.end() ? in_model->second : next++;
    if (token.id != stated) {
      spdlog::info("{}: {} is said to be token {}; it gets {}, as from the tokenizers package",
                   node.place, quoted_excerpt(token.content), stated, token.id);
    }
    known.emplace(token.content, tokens.size());
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// What decode writes for every id. An added token hides a token of the model with the same id.
void fill_tokens(const Vocabulary& vocabulary, const ByteAlphabet& alphabet,
                 BpeTokenizerParts& parts) {
  std::unordered_set<std::string_view> specials;
  for (const AddedToken& token : parts.added_tokens) {
    if (token.special) specials.insert(token.content);
  }
  const auto put = [&](int32_t id, std::string_view text) {
    std::optional<std::string> bytes = token_bytes(alphabet, text);
    parts.tokens.try_emplace(id,
                             BpeTokenizerParts::Token{bytes ? std::move(*bytes) : std::string(text),
                                                      specials.contains(text)});
  };
  parts.tokens.reserve(vocabulary.size() + parts.added_tokens.size());
  for (const AddedToken& token : parts.added_tokens) {
    const bool composed = token.normalized && parts.nfc;
    put(token.id, composed ? normalize_nfc(token.content) : token.content);
  }
  for (const auto& [token, id] : vocabulary) put(id, token);
}

}  // namespace
}  // namespace tokenizer_json

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name) {
  using namespace tokenizer_json;
  Json json;
  try {
    json = Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    const TextPlace place = place_in_text(text, error.byte == 0 ? 0 : error.byte - 1);
    fail(ExitCode::corrupt, "{}:{}: not JSON at column {}: {}", name, place.line, place.column,
         short_json_complaint(error));
  } catch (const Json::exception& error) {  // a number out of range
    fail(ExitCode::corrupt, "{}: not JSON: {}", name, short_json_complaint(error));
  }
  const Node whole{&json, name};
  if (const auto version = whole.find("version"); version && version->text() != "1.0") {
    version->unsupported(fmt::format("version {}", quoted_excerpt(version->text())));
  }
  for (const char* key : {"truncation", "padding"}) {
    if (whole.find(key)) spdlog::info("{}: \"{}\" is left aside; prompts stay whole", name, key);
  }
  const Node model = whole.at("model");
  check_model_settings(model);
  const ByteAlphabet alphabet;
  const Vocabulary vocabulary = read_vocabulary(model.at("vocab"));
  BpeTokenizerParts parts;
  parts.nfc = read_normalizer_is_nfc(whole.find("normalizer"));
  parts.pretokenizer = read_pretokenizer(whole.find("pre_tokenizer"), whole);
  parts.pieces = read_template(whole.find("post_processor"));
  check_decoder(whole.find("decoder"), whole);
  parts.model = read_model(model, vocabulary, alphabet);
  parts.added_tokens = read_added_tokens(whole.find("added_tokens"), vocabulary);
  fill_tokens(vocabulary, alphabet, parts);
  try {
    return std::make_unique<BpeTokenizer>(std::move(parts));
  } catch (const Error& error) {
    fail(error.code(), "{}: {}", name, error.what());
  }
}

}  // namespace longhaul::io
