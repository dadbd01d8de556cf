// The parts of tokenizer.json around the model: normalizer, pre_tokenizer, post_processor, decoder.
#include "runtime/io/json_lines.h"
#include "runtime/io/tokenizer_json_reader.h"

namespace longhaul::io::tokenizer_json {
namespace {

// What ByteLevel cuts with unless told not to (GPT-2's pattern).
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// More steps than anyone writes; they nest when they run.
constexpr size_t kMostSteps = 32;
constexpr int kDeepestSequence = 8;

std::string quote_pattern(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       (c & 0x80) != 0;
    if (!plain) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

void read_split(const Node& step, Pretokenizer& steps) {
  const Node pattern = step.at("pattern");
  const std::optional<Node> regex = pattern.find("Regex");
  const std::optional<Node> plain = pattern.find("String");
  if (regex.has_value() == plain.has_value()) {
    pattern.malformed("must hold one of \"Regex\" and \"String\"");
  }
  const std::string behavior = step.at("behavior").text();
  if (behavior != "Isolated" && behavior != "Removed") {
    step.unsupported(fmt::format("behavior {}", quoted_excerpt(behavior)));
  }
  const bool invert = step.at("invert").boolean();
  const Node& source = regex ? *regex : *plain;
  const std::string text = regex ? regex->text() : quote_pattern(plain->text());
  try {
    steps.add_split(
        SplitRegex(text),
        behavior == "Removed" ? Pretokenizer::Behavior::removed : Pretokenizer::Behavior::isolated,
        invert);
  } catch (const Error& error) {
    if (error.code() == ExitCode::corrupt) source.malformed(error.what());
    source.refuse(error.what());
  }
}

void read_step(const Node& step, Pretokenizer& steps, bool& byte_level, int depth) {
  const std::string type = step.type();
  if (byte_level && type != "Sequence") {
    step.unsupported(fmt::format("a step ({}) after ByteLevel", quoted_excerpt(type)));
  }
  if (steps.num_steps() >= kMostSteps) step.unsupported("so many steps");
  if (type == "Sequence") {
    if (depth >= kDeepestSequence) step.unsupported("so deep a Sequence");
    const Node parts = step.at("pretokenizers");
    for (size_t i = 0; i < parts.list().size(); ++i) {
      read_step(parts.at(i), steps, byte_level, depth + 1);
    }
  } else if (type == "Split") {
    read_split(step, steps);
  } else if (type == "Digits") {
    const bool single = step.at("individual_digits").boolean();
    steps.add_split(SplitRegex(single ? R"(\p{N})" : R"(\p{N}+)"), Pretokenizer::Behavior::isolated,
                    false);
  } else if (type == "ByteLevel") {
    byte_level = true;
    if (step.at("add_prefix_space").boolean()) steps.add_prefix_space();
    if (step.boolean("use_regex", true)) {
      steps.add_split(SplitRegex(kByteLevelPattern), Pretokenizer::Behavior::isolated, false);
    }
  } else {
    step.unsupported(fmt::format("type {}", quoted_excerpt(type)));
  }
}

bool read_normalizer(const Node& normalizer, int depth) {
  const std::string type = normalizer.type();
  if (type == "NFC") return true;
  if (type != "Sequence") normalizer.unsupported(fmt::format("type {}", quoted_excerpt(type)));
  if (depth >= kDeepestSequence) normalizer.unsupported("so deep a Sequence");
  const Node parts = normalizer.at("normalizers");
  bool nfc = false;
  for (size_t i = 0; i < parts.list().size(); ++i) {
    nfc = read_normalizer(parts.at(i), depth + 1) || nfc;
  }
  return nfc;
}

void read_template_pieces(const Node& processor,
                          std::vector<BpeTokenizerParts::TemplatePiece>& pieces) {
  const Node single = processor.at("single");
  const Node specials = processor.at("special_tokens");
  bool has_text = false;
  for (size_t i = 0; i < single.list().size(); ++i) {
    const Node piece = single.at(i);
    if (const auto sequence = piece.find("Sequence")) {
      const std::string id = sequence->at("id").text();
      if (id != "A") sequence->unsupported(fmt::format("sequence {}", quoted_excerpt(id)));
      pieces.push_back({true, {}});
      has_text = true;
      continue;
    }
    const Node name = piece.at("SpecialToken").at("id");
    const auto token = specials.find(name.text().c_str());
    if (!token)
      name.malformed(fmt::format("{} is not in special_tokens", quoted_excerpt(name.text())));
    const Node ids = token->at("ids");
    pieces.push_back({false, {}});
    for (size_t k = 0; k < ids.list().size(); ++k)
      pieces.back().ids.push_back(ids.at(k).token_id());
  }
  if (!has_text) single.unsupported("a template without the text");
}

void read_processor(const Node& processor, std::vector<BpeTokenizerParts::TemplatePiece>& pieces,
                    int depth) {
  const std::string type = processor.type();
  if (type == "ByteLevel") return;  // it moves offsets, which nobody here asks for
  if (type == "TemplateProcessing") {
    if (!pieces.empty()) processor.unsupported("a second template");
    return read_template_pieces(processor, pieces);
  }
  if (type != "Sequence") processor.unsupported(fmt::format("type {}", quoted_excerpt(type)));
  if (depth >= kDeepestSequence) processor.unsupported("so deep a Sequence");
  const Node parts = processor.at("processors");
  for (size_t i = 0; i < parts.list().size(); ++i) read_processor(parts.at(i), pieces, depth + 1);
}

}  // namespace

bool read_normalizer_is_nfc(const std::optional<Node>& normalizer) {
  return normalizer && read_normalizer(*normalizer, 0);
}

Pretokenizer read_pretokenizer(const std::optional<Node>& pretokenizer, const Node& whole) {
  Pretokenizer steps;
  bool byte_level = false;
  if (pretokenizer) read_step(*pretokenizer, steps, byte_level, 0);
  if (!byte_level) whole.unsupported("a pre_tokenizer without ByteLevel");
  return steps;
}

void check_decoder(const std::optional<Node>& decoder, const Node& whole) {
  if (!decoder) whole.unsupported("a decoder other than ByteLevel (none is given)");
  if (decoder->type() == "Sequence") {
    const Node parts = decoder->at("decoders");
    if (parts.list().size() == 1 && parts.at(size_t{0}).type() == "ByteLevel") return;
    decoder->unsupported("a Sequence of anything but one ByteLevel");
  }
  if (decoder->type() != "ByteLevel") {
    decoder->unsupported(fmt::format("type {}", quoted_excerpt(decoder->type())));
  }
}

std::vector<BpeTokenizerParts::TemplatePiece> read_template(const std::optional<Node>& processor) {
  std::vector<BpeTokenizerParts::TemplatePiece> pieces;
  if (processor) read_processor(*processor, pieces, 0);
  if (pieces.empty()) pieces.push_back({true, {}});
  return pieces;
}

}  // namespace longhaul::io::tokenizer_json
