#include "runtime/io/prompts.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "runtime/core/check.h"
#include "runtime/core/log.h"
#include "runtime/io/json_lines.h"

namespace longhaul::io {
namespace {

using Json = nlohmann::json;

constexpr const char* kLineShape =
    "write one object a line: {\"tokens\": [1, 2, 3]} or {\"text\": \"...\"}";
constexpr const char* kListShape = "write a list of token-id lists: [[1, 2, 3], [4, 5]]";

// Gathers one prompt's ids and refuses what is no id. `where` begins every complaint.
class TokenList {
 public:
  TokenList(int64_t vocab_size, std::vector<int32_t>& ids) : vocab_size_(vocab_size), ids_(ids) {}

  void add(const std::string& where, int64_t id) {
    if (id < 0 || id >= vocab_size_) refuse(where, std::to_string(id));
    ids_.push_back(static_cast<int32_t>(id));
  }
  void add(const std::string& where, uint64_t id) {
    if (id >= static_cast<uint64_t>(vocab_size_)) refuse(where, std::to_string(id));
    ids_.push_back(static_cast<int32_t>(id));
  }
  // What the JSON parser holds for a fraction, or for an integer past 64 bits.
  void add(const std::string& where, const std::string& literal) {
    if (literal.find_first_of(".eE") == std::string::npos) refuse(where, literal.substr(0, 40));
    fail(ExitCode::corrupt, "{}: token {} is {}, not a whole number", where, ids_.size(),
         literal.substr(0, 40));
  }
  [[noreturn]] void wrong_type(const std::string& where, const char* type) const {
    fail(ExitCode::corrupt, "{}: token {} is {}, not a token id", where, ids_.size(), type);
  }

 private:
  [[noreturn]] void refuse(const std::string& where, const std::string& id) const {
    fail(ExitCode::usage, "{}: token {} is {}, outside the model's vocabulary of {} ids (0 to {})",
         where, ids_.size(), id, vocab_size_, vocab_size_ - 1);
  }
  int64_t vocab_size_;
  std::vector<int32_t>& ids_;
};

// Events in, values out: no tree of the document is built, so that a million ids take the memory
// of a million ids, and nesting costs no stack.
class Events : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return value("null"); }
  bool boolean(bool given) override { return value(given ? "true" : "false"); }
  bool binary(binary_t&) override { return value("binary"); }
  bool number_float(double, const std::string& literal) override { return number(literal); }
  bool number_integer(int64_t given) override { return number(given); }
  bool number_unsigned(uint64_t given) override { return number(given); }

 protected:
  virtual bool value(const char* type) = 0;
  virtual bool number(int64_t given) = 0;
  virtual bool number(uint64_t given) = 0;
  virtual bool number(const std::string& literal) = 0;
};

// ---- .json: [[ids], [ids], ...]

class PromptLists final : public Events {
 public:
  PromptLists(const std::string& file, std::string_view content, int64_t vocab_size)
      : file_(file), content_(content), vocab_size_(vocab_size) {}

  std::vector<Prompt> take() { return std::move(prompts_); }

  bool start_array(size_t) override {
    if (depth_ == 2) TokenList(vocab_size_, ids()).wrong_type(where(), "a list");
    if (depth_ == 1) {
      prompts_.emplace_back();
      prompts_.back().id = std::to_string(prompts_.size() - 1);
      where_ = fmt::format("{}: prompt {}", file_, prompts_.size() - 1);
    }
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    if (depth_ == 1 && ids().empty()) {
      fail(ExitCode::usage, "{} is empty; a prompt needs at least one token", where());
    }
    return true;
  }
  bool start_object(size_t) override {
    if (depth_ == 0) fail(ExitCode::corrupt, "{}: holds an object; {}", file_, kListShape);
    if (depth_ == 1) {
      fail(ExitCode::corrupt, "{}: prompt {} is an object; {}, or name the file .jsonl and {}",
           file_, prompts_.size(), kListShape, kLineShape);
    }
    return value("an object");
  }
  bool end_object() override { return true; }
  bool key(string_t&) override { return true; }
  bool string(string_t&) override { return value("a string"); }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    const TextPlace place = place_in_text(content_, position == 0 ? 0 : position - 1);
    fail(ExitCode::corrupt, "{}:{}: not JSON at column {}: {}", file_, place.line, place.column,
         short_json_complaint(error));
  }

 protected:
  bool value(const char* type) override {
    if (depth_ == 0) fail(ExitCode::corrupt, "{}: holds {}; {}", file_, type, kListShape);
    if (depth_ == 1) {
      fail(ExitCode::corrupt, "{}: prompt {} is {}, not a list of token ids; {}", file_,
           prompts_.size(), type, kListShape);
    }
    TokenList(vocab_size_, ids()).wrong_type(where(), type);
  }
  bool number(int64_t given) override { return any_number(given); }
  bool number(uint64_t given) override { return any_number(given); }
  bool number(const std::string& literal) override { return any_number(literal); }

 private:
  template <class T>
  bool any_number(const T& given) {
    if (depth_ < 2) return value("a number");
    TokenList(vocab_size_, ids()).add(where_, given);
    return true;
  }
  std::vector<int32_t>& ids() { return prompts_.back().tokens; }
  const std::string& where() const { return where_; }

  const std::string& file_;
  std::string_view content_;
  int64_t vocab_size_;
  int depth_ = 0;  // 1 inside the outer list, 2 inside a prompt
  std::string where_;
  std::vector<Prompt> prompts_;
};

// ---- .jsonl: {"tokens": [...]} or {"text": "..."}, and "id", "answer"

class PromptObject final : public Events {
 public:
  PromptObject(std::string where, int64_t vocab_size)
      : where_(std::move(where)), vocab_size_(vocab_size) {}

  std::optional<std::string> id, text, answer;
  std::optional<std::vector<int32_t>> tokens;

  bool start_object(size_t) override {
    if (depth_ > 0) enter("an object");
    ++depth_;
    return true;
  }
  bool end_object() override { return leave(); }
  bool start_array(size_t) override {
    if (depth_ == 1 && field_ == Field::tokens) {
      tokens.emplace();
    } else {
      enter("a list");
    }
    ++depth_;
    return true;
  }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    field_ = name == "tokens"   ? Field::tokens
             : name == "text"   ? Field::text
             : name == "id"     ? Field::id
             : name == "answer" ? Field::answer
                                : Field::other;
    if (field_ == Field::other) return true;
    // JSON leaves open which of two equal keys counts; here neither does.
    bool& seen = seen_[static_cast<size_t>(field_)];
    if (seen) fail(ExitCode::corrupt, "{}: has the key \"{}\" twice", where_, name);
    seen = true;
    return true;
  }
  bool string(string_t& given) override {
    if (depth_ != 1 || field_ == Field::tokens) return value("a string");
    if (field_ == Field::text) text = std::move(given);
    if (field_ == Field::id) id = std::move(given);
    if (field_ == Field::answer) answer = std::move(given);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    fail(ExitCode::corrupt, "{}: not JSON at column {}: {}", where_, std::max<size_t>(position, 1),
         short_json_complaint(error));
  }

 protected:
  bool value(const char* type) override {
    // null in a table's export means that the row has no such field.
    if (depth_ == 1 && std::string_view(type) == "null") return true;
    enter(type);
    return true;
  }
  bool number(int64_t given) override { return any_number(given, std::to_string(given)); }
  bool number(uint64_t given) override { return any_number(given, std::to_string(given)); }
  bool number(const std::string& literal) override { return any_number(literal, literal); }

 private:
  enum class Field { tokens, text, id, answer, other };

  // A value that only an ignored key may hold.
  void enter(const char* type) {
    if (depth_ == 0) fail(ExitCode::corrupt, "{}: is {}; {}", where_, type, kLineShape);
    if (field_ == Field::other) return;
    if (field_ == Field::tokens && depth_ > 1) {
      TokenList(vocab_size_, *tokens).wrong_type(where_, type);
    }
    const char* name = field_ == Field::tokens ? "tokens"
                       : field_ == Field::text ? "text"
                       : field_ == Field::id   ? "id"
                                               : "answer";
    const char* wanted = field_ == Field::tokens ? "a list of token ids"
                         : field_ == Field::text ? "a string"
                                                 : "a string or a number";
    fail(ExitCode::corrupt, "{}: \"{}\" is {}, not {}", where_, name, type, wanted);
  }
  bool leave() {
    --depth_;
    return true;
  }
  template <class T>
  bool any_number(const T& given, const std::string& literal) {
    if (depth_ == 2 && field_ == Field::tokens) {
      TokenList(vocab_size_, *tokens).add(where_, given);
    } else if (depth_ == 1 && field_ == Field::id) {
      id = literal;
    } else if (depth_ == 1 && field_ == Field::answer) {
      answer = literal;
    } else {
      enter("a number");
    }
    return true;
  }

  std::string where_;
  int64_t vocab_size_;
  int64_t depth_ = 0;  // 1 inside the object, 2 inside `tokens`
  Field field_ = Field::other;
  bool seen_[4] = {};
};

// How text becomes tokens, or why it cannot.
struct TextReader {
  const Tokenizer* tokenizer;
  int64_t vocab_size;
  const std::string& no_tokenizer_reason;
};

std::vector<int32_t> encode_text(const std::string& where, const std::string& text,
                                 const TextReader& reader) {
  const auto& [tokenizer, vocab_size, reason] = reader;
  if (tokenizer == nullptr) {
    fail(ExitCode::usage, "{}: has \"text\", but {}; give \"tokens\"", where,
         reason.empty() ? "the model has no tokenizer.json" : reason);
  }
  if (text.empty()) fail(ExitCode::usage, "{}: \"text\" is empty", where);
  std::vector<int32_t> ids = tokenizer->encode(text);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      fail(ExitCode::usage,
           "{}: the tokenizer gives token {} as {}, outside the model's vocabulary of {} ids; "
           "tokenizer.json belongs to another model",
           where, i, ids[i], vocab_size);
    }
  }
  if (ids.empty()) fail(ExitCode::usage, "{}: \"text\" gives no tokens", where);
  return ids;
}

Prompt read_line(const std::string& where, std::string_view line, size_t index,
                 const TextReader& reader) {
  PromptObject object(where, reader.vocab_size);
  Json::sax_parse(line.begin(), line.end(), &object);
  if (object.tokens && object.text) {
    fail(ExitCode::corrupt, "{}: has both \"tokens\" and \"text\"; keep the one that is meant",
         where);
  }
  Prompt prompt;
  prompt.id = object.id.value_or(std::to_string(index));
  prompt.answer = std::move(object.answer);
  if (object.tokens) {
    prompt.tokens = std::move(*object.tokens);
    if (prompt.tokens.empty()) {
      fail(ExitCode::usage, "{}: \"tokens\" is empty; a prompt needs at least one token", where);
    }
  } else if (object.text) {
    prompt.tokens = encode_text(where, *object.text, reader);
    prompt.text = std::move(object.text);
  } else {
    fail(ExitCode::corrupt, "{}: has neither \"tokens\" nor \"text\"; {}", where, kLineShape);
  }
  return prompt;
}

void note_repeated_ids(const std::string& name, const std::vector<Prompt>& prompts) {
  std::unordered_set<std::string_view> seen;
  for (const Prompt& prompt : prompts) {
    if (!seen.insert(prompt.id).second) {
      spdlog::info("{}: more than one prompt has the id {}; results keep the order of the file",
                   name, quoted_excerpt(prompt.id));
      return;
    }
  }
}

}  // namespace

std::vector<Prompt> parse_prompts(std::string_view content, PromptFormat format,
                                  const std::string& name, const Tokenizer* tokenizer,
                                  int64_t vocab_size, const std::string& no_tokenizer_reason) {
  LH_CHECK(vocab_size > 0 && vocab_size <= std::numeric_limits<int32_t>::max(), "vocab_size {}",
           vocab_size);
  const TextReader reader{tokenizer, vocab_size, no_tokenizer_reason};
  std::vector<Prompt> prompts;
  if (format == PromptFormat::json) {
    PromptLists lists(name, content, vocab_size);
    Json::sax_parse(content.begin(), content.end(), &lists);
    prompts = lists.take();
  } else {
    for_each_line(content, [&](std::string_view line, int64_t number) {
      prompts.push_back(read_line(fmt::format("{}:{}: prompt {}", name, number, prompts.size()),
                                  line, prompts.size(), reader));
    });
  }
  if (prompts.empty()) fail(ExitCode::usage, "{}: holds no prompts", name);
  note_repeated_ids(name, prompts);
  return prompts;
}

std::vector<Prompt> read_prompts(const std::filesystem::path& file, const Tokenizer* tokenizer,
                                 int64_t vocab_size, const std::string& no_tokenizer_reason) {
  const std::string name = file.string();
  const std::string extension = file.extension().string();
  if (extension != ".json" && extension != ".jsonl") {
    fail(ExitCode::usage,
         "{}: prompts are a .json file (a list of token-id lists) or a .jsonl file (one object a "
         "line); rename it",
         name);
  }
  return parse_prompts(read_text_file(file),
                       extension == ".json" ? PromptFormat::json : PromptFormat::json_lines, name,
                       tokenizer, vocab_size, no_tokenizer_reason);
}

}  // namespace longhaul::io
