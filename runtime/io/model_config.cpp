#include "runtime/io/model_config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "runtime/core/check.h"
#include "runtime/core/suggest.h"
#include "runtime/io/config_reader.h"
#include "runtime/io/json_checked.h"
#include "runtime/io/rope_config.h"

namespace longhaul::io {
namespace {

constexpr size_t kMaxConfigBytes = 16 << 20;
constexpr int kMaxConfigDepth = 16;
// Bounds far above every published model, low enough that no product of two overflows and that a
// damaged number cannot ask for absurd amounts of memory.
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxLayers = 16384;
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxExpertsOfAllLayers = 1'000'000;
constexpr int64_t kMaxHeadDim = 65536;

// What transformers' config classes give where a key is absent (LlamaConfig, Qwen2Config, ...).
struct ClassDefaults {
  std::string_view model_type;
  int64_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads;
  int64_t num_kv_heads;  // 0: num_heads
  int64_t head_dim;      // 0: hidden_size / num_heads
  int64_t max_position_embeddings;
};
constexpr std::array<ClassDefaults, 4> kClasses = {{
    {"llama", 32000, 4096, 11008, 32, 32, 0, 0, 2048},
    {"qwen2", 151936, 4096, 22016, 32, 32, 32, 0, 32768},
    {"qwen3", 151936, 4096, 22016, 32, 32, 32, 128, 32768},
    {"qwen3_moe", 151936, 2048, 6144, 24, 32, 4, 0, 32768},
}};

const ClassDefaults& class_of(ConfigReader& reader) {
  if (!reader.has("model_type"))
    fail(ExitCode::corrupt, "{}: there is no model_type; is this a model's config.json?",
         reader.where());
  const std::string given = reader.text("model_type", "");
  std::array<std::string_view, kClasses.size()> names;
  std::string list;
  for (size_t i = 0; i < kClasses.size(); ++i) {
    if (kClasses[i].model_type == given) return kClasses[i];
    names[i] = kClasses[i].model_type;
    list += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  const std::string_view near = nearest_name(given, names);
  fail(ExitCode::usage, "{}: model_type is {}; longhaul runs {}{}", reader.where(),
       in_quotes(given), list, near.empty() ? "" : fmt::format(" (the nearest is {})", near));
}

void read_sizes(ConfigReader& reader, const ClassDefaults& defaults, ModelConfig& out) {
  out.vocab_size = reader.integer("vocab_size", defaults.vocab_size, 1, kMaxSize);
  out.hidden_size = reader.integer("hidden_size", defaults.hidden_size, 1, kMaxSize);
  out.intermediate_size =
      reader.integer("intermediate_size", defaults.intermediate_size, 1, kMaxSize);
  out.num_layers =
      static_cast<int>(reader.integer("num_hidden_layers", defaults.num_layers, 1, kMaxLayers));
  out.num_heads = reader.integer("num_attention_heads", defaults.num_heads, 1, kMaxSize);
  const bool kv_as_heads = defaults.num_kv_heads == 0 || reader.is_null("num_key_value_heads");
  out.num_kv_heads = reader.integer(
      "num_key_value_heads", kv_as_heads ? out.num_heads : defaults.num_kv_heads, 1, kMaxSize);
  if (out.num_heads % out.num_kv_heads != 0)
    fail(ExitCode::corrupt,
         "{}: num_attention_heads ({}) is no multiple of num_key_value_heads ({}{})",
         reader.where(), out.num_heads, out.num_kv_heads,
         reader.has("num_key_value_heads") ? "" : fmt::format(", {}'s default", out.model_type));
  if (!reader.has("head_dim") && defaults.head_dim == 0 && out.hidden_size % out.num_heads != 0)
    fail(
        ExitCode::corrupt,
        "{}: hidden_size ({}) is no multiple of num_attention_heads ({}) and head_dim is not given",
        reader.where(), out.hidden_size, out.num_heads);
  out.head_dim = reader.integer(
      "head_dim", defaults.head_dim != 0 ? defaults.head_dim : out.hidden_size / out.num_heads, 1,
      kMaxHeadDim);
  if (out.head_dim % 2 != 0)
    fail(ExitCode::corrupt, "{}: head_dim is {}; rotary embedding needs an even one",
         reader.where(), out.head_dim);
  if (out.num_heads * out.head_dim > kMaxSize)
    fail(ExitCode::corrupt, "{}: num_attention_heads ({}) times head_dim ({}) is past {}",
         reader.where(), out.num_heads, out.head_dim, kMaxSize);
  out.max_position_embeddings = reader.integer(
      "max_position_embeddings", defaults.max_position_embeddings, 1, int64_t{1} << 40);
}

int read_num_experts(ConfigReader& reader) {
  const auto from = [&](const char* key, int64_t fallback) {
    return static_cast<int>(reader.integer(key, fallback, 0, kMaxExperts));
  };
  const bool old_given = reader.has("num_experts");
  const bool new_given = reader.has("num_local_experts");
  const int experts = from("num_experts", 128);
  if (!new_given) return experts;
  const int local = from("num_local_experts", 128);
  if (old_given && local != experts)
    fail(ExitCode::corrupt, "{}: num_experts is {} but num_local_experts is {}; keep one",
         reader.where(), experts, local);
  return local;
}

void read_experts(ConfigReader& reader, ModelConfig& out) {
  out.moe.num_experts = read_num_experts(reader);
  out.moe.num_experts_per_tok =
      static_cast<int>(reader.integer("num_experts_per_tok", 8, 1, kMaxExperts));
  out.moe.intermediate_size = reader.integer("moe_intermediate_size", 768, 1, kMaxSize);
  out.moe.norm_topk_prob = reader.boolean("norm_topk_prob", false);
  const int64_t step = reader.integer("decoder_sparse_step", 1, 1, kMaxSize);
  const std::vector<int64_t> dense = reader.integers("mlp_only_layers");
  for (int layer = 0; layer < out.num_layers; ++layer) {
    const bool listed = std::find(dense.begin(), dense.end(), layer) != dense.end();
    out.layer_is_sparse[static_cast<size_t>(layer)] =
        !listed && out.moe.num_experts > 0 && (layer + 1) % step == 0;
  }
  if (int64_t{out.num_layers} * out.moe.num_experts > kMaxExpertsOfAllLayers)
    fail(ExitCode::corrupt, "{}: num_experts ({}) times num_hidden_layers ({}) is past {}",
         reader.where(), out.moe.num_experts, out.num_layers, kMaxExpertsOfAllLayers);
  const bool any = std::find(out.layer_is_sparse.begin(), out.layer_is_sparse.end(), true) !=
                   out.layer_is_sparse.end();
  if (any && out.moe.num_experts_per_tok > out.moe.num_experts)
    fail(ExitCode::corrupt, "{}: num_experts_per_tok is {} but there are only {} experts",
         reader.where(), out.moe.num_experts_per_tok, out.moe.num_experts);
}

// transformers' rules: Qwen2 and Qwen3 by layer_types, which default to a window from layer
// max_window_layers on; Qwen3-MoE on every layer. Llama has none, so a window there means that the
// weights were trained for another attention than the config's class computes.
void refuse_sliding_window(ConfigReader& reader, const ModelConfig& config) {
  const bool flag = reader.boolean("use_sliding_window", config.model_type == "llama");
  const int64_t window = reader.integer(
      "sliding_window", config.model_type == "llama" || reader.is_null("sliding_window") ? 0 : 4096,
      0, int64_t{1} << 40);
  const int64_t first_layer = reader.integer("max_window_layers", 28, 0, kMaxSize);
  const bool by_layer = config.model_type == "qwen2" || config.model_type == "qwen3";
  bool used = flag && window > 0;
  if (const nlohmann::json* types = reader.get("layer_types"); types != nullptr) {
    if (!types->is_array() || types->size() != static_cast<size_t>(config.num_layers))
      fail(ExitCode::corrupt, "{}; it must be a list with one entry for each of {} layers",
           reader.describe("layer_types"), config.num_layers);
    for (size_t layer = 0; layer < types->size(); ++layer)
      if ((*types)[layer] != "full_attention")
        fail(ExitCode::usage,
             "{}: layer_types[{}] is {}; longhaul runs full_attention only, no sliding window",
             reader.where(), layer, shown((*types)[layer]));
    if (by_layer) used = false;
  } else if (by_layer && first_layer >= config.num_layers) {
    used = false;
  }
  if (used)
    fail(ExitCode::usage, "{}: sliding_window ({}) is in use; longhaul runs full attention only",
         reader.where(), window);
}

void refuse_unsupported(ConfigReader& reader, const ModelConfig& config) {
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    fail(ExitCode::usage, "{}: hidden_act is {}; longhaul runs silu only", reader.where(),
         in_quotes(activation));
  refuse_sliding_window(reader, config);
  for (const char* key : {"quantization_config", "compression_config"})
    if (reader.has(key))
      fail(ExitCode::usage, "{}: has a {}; longhaul reads BF16, F16 and F32 weights only",
           reader.where(), key);
  if (reader.has("per_layer_config"))
    fail(ExitCode::usage, "{}: has a per_layer_config; longhaul runs layers of one shape only",
         reader.where());
  if (reader.boolean("use_mrope", false))
    fail(ExitCode::usage, "{}: use_mrope is true; longhaul runs one-dimensional positions only",
         reader.where());
}

DType read_stored_dtype(ConfigReader& reader) {
  const char* key = reader.has("dtype") ? "dtype" : "torch_dtype";
  reader.ignore({"torch_dtype"});
  std::string name = reader.text(key, "float32");
  if (name.starts_with("torch.")) name = name.substr(6);
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float64") return DType::f64;
  fail(ExitCode::usage, "{}; longhaul reads bfloat16, float16 and float32", reader.describe(key));
}

// Ids outside the vocabulary cannot be generated; some published configs hold them.
void add_eos(ConfigReader& reader, ModelConfig& out) {
  for (int64_t id : reader.integers("eos_token_id")) {
    const bool known = std::find(out.eos_token_ids.begin(), out.eos_token_ids.end(), id) !=
                       out.eos_token_ids.end();
    if (id >= 0 && id < out.vocab_size && !known) out.eos_token_ids.push_back(id);
  }
}

void read_eos(ConfigReader& reader, std::string_view generation_json, ModelConfig& out) {
  const bool given = reader.has("eos_token_id") || reader.is_null("eos_token_id");
  add_eos(reader, out);
  if (!generation_json.empty()) {
    std::filesystem::path file = reader.where();
    const std::string where = file.replace_filename("generation_config.json").string();
    const nlohmann::json json = parse_json_checked(generation_json, kMaxConfigDepth, where);
    ConfigReader generation(json, where);
    add_eos(generation, out);
  }
  // LlamaConfig's default.
  if (!given && out.eos_token_ids.empty() && out.model_type == "llama" && out.vocab_size > 2)
    out.eos_token_ids.push_back(2);
}

// Keys that transformers writes as a matter of course and that have no part in a forward pass.
void ignore_routine_keys(ConfigReader& reader) {
  reader.ignore({"architectures",
                 "transformers_version",
                 "_name_or_path",
                 "name_or_path",
                 "_commit_hash",
                 "auto_map",
                 "use_cache",
                 "bos_token_id",
                 "pad_token_id",
                 "sep_token_id",
                 "cls_token_id",
                 "decoder_start_token_id",
                 "forced_bos_token_id",
                 "forced_eos_token_id",
                 "attention_dropout",
                 "hidden_dropout",
                 "attn_implementation",
                 "_attn_implementation",
                 "_attn_implementation_autoset",
                 "experts_implementation",
                 "router_aux_loss_coef",
                 "output_router_logits",
                 "output_attentions",
                 "output_hidden_states",
                 "return_dict",
                 "use_return_dict",
                 "torchscript",
                 "is_encoder_decoder",
                 "is_decoder",
                 "add_cross_attention",
                 "tie_encoder_decoder",
                 "chunk_size_feed_forward",
                 "id2label",
                 "label2id",
                 "num_labels",
                 "problem_type",
                 "pretraining_tp",
                 "finetuning_task",
                 "task_specific_params",
                 "tokenizer_class",
                 "prefix",
                 "pruned_heads",
                 "use_bfloat16",
                 "tf_legacy_loss",
                 "bad_words_ids",
                 "cross_attention_hidden_size",
                 "max_length",
                 "min_length",
                 "do_sample",
                 "early_stopping",
                 "num_beams",
                 "temperature",
                 "top_k",
                 "top_p",
                 "typical_p",
                 "repetition_penalty",
                 "length_penalty",
                 "no_repeat_ngram_size",
                 "suppress_tokens",
                 "begin_suppress_tokens",
                 "num_return_sequences",
                 "output_scores",
                 "return_dict_in_generate",
                 "remove_invalid_values",
                 "exponential_decay_length_penalty",
                 "encoder_no_repeat_ngram_size",
                 "num_beam_groups",
                 "diversity_penalty"});
}

}  // namespace

ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_json,
                               const std::string& where) {
  const nlohmann::json json = parse_json_checked(config_json, kMaxConfigDepth, where);
  ConfigReader reader(json, where);
  const ClassDefaults& defaults = class_of(reader);
  ModelConfig out;
  out.model_type = defaults.model_type;
  read_sizes(reader, defaults, out);
  out.layer_is_sparse.assign(static_cast<size_t>(out.num_layers), false);
  out.rms_norm_eps = reader.number("rms_norm_eps", 1e-6, 0, 1);
  out.initializer_range = reader.number("initializer_range", 0.02, 0, 1e3);
  out.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  out.qk_norm = out.model_type == "qwen3" || out.model_type == "qwen3_moe";
  if (out.model_type == "qwen2") {
    out.qkv_bias = true;  // its class knows no attention_bias: q, k and v have one, o_proj has none
  } else {
    out.qkv_bias = out.output_bias = reader.boolean("attention_bias", false);
  }
  if (out.model_type == "llama") out.mlp_bias = reader.boolean("mlp_bias", false);
  if (out.model_type == "qwen3_moe") read_experts(reader, out);
  refuse_unsupported(reader, out);
  out.rope = read_rope_parameters(reader, out.max_position_embeddings, out.unknown_keys);
  out.stored_dtype = read_stored_dtype(reader);
  read_eos(reader, generation_json, out);
  ignore_routine_keys(reader);
  for (std::string& key : reader.unread()) out.unknown_keys.push_back(std::move(key));
  return out;
}

ModelConfig read_model_config(const std::filesystem::path& model_dir) {
  std::error_code ignored;
  const auto status = std::filesystem::status(model_dir, ignored);
  if (!std::filesystem::exists(status))
    fail(ExitCode::usage, "{}: no such model folder; give the folder that holds config.json",
         model_dir.string());
  const bool is_folder = std::filesystem::is_directory(status);
  const std::filesystem::path file = is_folder ? model_dir / "config.json" : model_dir;
  if (!std::filesystem::exists(file, ignored))
    fail(ExitCode::usage, "{}: there is no config.json in this folder; is it a model's?",
         model_dir.string());
  const std::string config = read_file_checked(file, kMaxConfigBytes);
  std::string generation;
  std::filesystem::path generation_file = file;
  generation_file.replace_filename("generation_config.json");
  if (std::filesystem::exists(generation_file, ignored))
    generation = read_file_checked(generation_file, kMaxConfigBytes);
  return parse_model_config(config, generation, file.string());
}

}  // namespace longhaul::io
