#include "runtime/io/rope_config.h"

#include <array>
#include <nlohmann/json.hpp>

#include "runtime/core/check.h"
#include "runtime/core/suggest.h"
#include "runtime/io/json_checked.h"

namespace longhaul::io {
namespace {

constexpr double kLargest = 1e15;  // far past any position or base that means something

void refuse_partial_rotary(ConfigReader& reader) {
  if (reader.number("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0)
    fail(ExitCode::usage, "{}; longhaul rotates whole heads only (1.0)",
         reader.describe("partial_rotary_factor"));
}

ops::RopeType rope_type_of(ConfigReader& rope) {
  const std::string old_name = rope.text("type", "default");
  const std::string name = rope.text("rope_type", old_name);
  if (name == "default") return ops::RopeType::standard;
  if (name == "llama3") return ops::RopeType::llama3;
  if (name == "yarn") return ops::RopeType::yarn;
  static constexpr std::array<std::string_view, 3> known = {"default", "llama3", "yarn"};
  const std::string_view near = nearest_name(name, known);
  fail(ExitCode::usage, "{}: {} is {}; longhaul runs default, llama3 and yarn{}", rope.where(),
       rope.name_of(rope.has("rope_type") ? "rope_type" : "type"), in_quotes(name),
       near.empty() ? "" : fmt::format(" (did you mean {}?)", near));
}

double required(ConfigReader& rope, std::string_view key, double low, double high) {
  if (!rope.has(key)) fail(ExitCode::corrupt, "{}; this rope type needs it", rope.describe(key));
  return rope.number(key, 0, low, high);
}

void read_llama3(ConfigReader& rope, ops::RopeParameters& out) {
  out.factor = required(rope, "factor", 1e-6, kLargest);
  out.low_freq_factor = required(rope, "low_freq_factor", 1e-6, kLargest);
  out.high_freq_factor = required(rope, "high_freq_factor", 1e-6, kLargest);
  if (out.high_freq_factor <= out.low_freq_factor)
    fail(ExitCode::corrupt, "{}; it must be above low_freq_factor ({})",
         rope.describe("high_freq_factor"), out.low_freq_factor);
}

void read_yarn(ConfigReader& rope, double length_ratio, ops::RopeParameters& out) {
  // An explicit null means the ratio of the two lengths; a missing one is refused by transformers.
  if (rope.is_null("factor")) {
    out.factor = length_ratio;
    rope.ignore({"factor"});
  } else {
    out.factor = required(rope, "factor", 1e-6, kLargest);
  }
  const auto zero_is_default = [&](std::string_view key, double fallback) {
    const double value = rope.number(key, fallback, 0, kLargest);
    return value == 0 ? fallback : value;
  };
  out.beta_fast = zero_is_default("beta_fast", 32);
  out.beta_slow = zero_is_default("beta_slow", 1);
  out.mscale = rope.number("mscale", 0, 0, kLargest);
  out.mscale_all_dim = rope.number("mscale_all_dim", 0, 0, kLargest);
  out.attention_factor = rope.number("attention_factor", 0, 1e-6, kLargest);
  // Absent is true, an explicit null is false: Python's dict.get and truth.
  out.truncate = rope.boolean("truncate", !rope.is_null("truncate"));
}

// Which object holds the parameters; empty for a config without one.
std::string rope_key(ConfigReader& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* value = config.get(key);
    if (value == nullptr || (value->is_object() && value->empty())) continue;
    config.ignore({"rope_parameters"});
    return key;
  }
  return "";
}

}  // namespace

ops::RopeParameters read_rope_parameters(ConfigReader& config, int64_t max_position_embeddings,
                                         std::vector<std::string>& unknown_keys) {
  ops::RopeParameters out;
  refuse_partial_rotary(config);
  // A base of 1 would give all frequencies 1, and the YaRN range divides by its logarithm.
  const double outer_theta = config.number("rope_theta", 10000.0, 1.0 + 1e-6, kLargest);
  const double outer_original = static_cast<double>(
      config.integer("original_max_position_embeddings", 0, 0, int64_t{1} << 40));
  out.theta = outer_theta;
  out.max_position_embeddings = static_cast<double>(max_position_embeddings);
  const std::string key = rope_key(config);
  if (key.empty()) return out;

  ConfigReader rope(*config.get(key), config.where(), key + ".");
  for (const char* nested : {"full_attention", "sliding_attention"})
    if (rope.has(nested))
      fail(ExitCode::usage,
           "{}: {} differ by layer type ({}); longhaul runs one set for all layers", config.where(),
           key, nested);
  refuse_partial_rotary(rope);
  out.type = rope_type_of(rope);
  out.theta = rope.number("rope_theta", outer_theta, 1.0 + 1e-6, kLargest);
  if (out.type != ops::RopeType::standard) {
    const double inner = static_cast<double>(rope.integer(
        "original_max_position_embeddings", max_position_embeddings, 1, int64_t{1} << 40));
    // The one outside wins, as in transformers.
    out.original_max_position_embeddings = outer_original > 0 ? outer_original : inner;
    const double ratio =
        static_cast<double>(max_position_embeddings) / out.original_max_position_embeddings;
    if (out.type == ops::RopeType::llama3) read_llama3(rope, out);
    if (out.type == ops::RopeType::yarn) read_yarn(rope, ratio, out);
  }
  for (std::string& unread : rope.unread()) unknown_keys.push_back(std::move(unread));
  return out;
}

}  // namespace longhaul::io
