// longhaul make-checkpoint: a checkpoint of any size with seeded random weights, for tests of speed
// and memory where no trained one is at hand. `run --load-format random` with the same seed makes
// the same weights without files.

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/command.h"
#include "runtime/core/check.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/json_checked.h"
#include "runtime/io/model_tensors.h"
#include "runtime/io/safetensors_writer.h"

namespace longhaul::apps {
namespace {

namespace fs = std::filesystem;

struct MakeCheckpointOptions {
  std::string config;  // a folder or a config.json
  std::string out;
  uint64_t seed = 0;
  std::string dtype;  // empty: as the config says
  uint64_t shard_bytes = 5'000'000'000;
  bool force = false;
};

constexpr size_t kMaxConfigBytes = 16 << 20;

fs::path config_file(const MakeCheckpointOptions& o) {
  return fs::is_directory(o.config) ? fs::path(o.config) / "config.json" : fs::path(o.config);
}

// The config as it is, but for the dtype where another one was asked for.
std::string config_text(const MakeCheckpointOptions& o) {
  const fs::path file = config_file(o);
  std::string text = io::read_file_checked(file, kMaxConfigBytes);
  if (o.dtype.empty()) return text;
  nlohmann::json json = io::parse_json_checked(text, 16, file.string());
  const std::string name = o.dtype == "bf16"  ? "bfloat16"
                           : o.dtype == "f16" ? "float16"
                                              : "float32";
  json.erase("torch_dtype");
  json["dtype"] = name;
  return json.dump(2) + "\n";
}

// What else a model folder needs to be run, where the source has it.
void copy_companions(const MakeCheckpointOptions& o) {
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
    const fs::path from = config_file(o).replace_filename(name);
    const fs::path to = fs::path(o.out) / name;
    std::error_code ignored;
    if (!fs::is_regular_file(from, ignored) || fs::equivalent(from, to, ignored)) continue;
    io::write_file_atomically(to, io::read_file_checked(from, size_t{1} << 30), o.force);
  }
}

int make_checkpoint(const MakeCheckpointOptions& o) {
  io::report_file_size_limit_as_error();
  io::ModelConfig config = io::read_model_config(o.config);
  if (!o.dtype.empty()) config.stored_dtype = parse_dtype(o.dtype);
  const std::string text = config_text(o);
  const fs::path out_config = fs::path(o.out) / "config.json";
  std::error_code ignored;
  const bool same_config = fs::equivalent(config_file(o), out_config, ignored);
  io::check_checkpoint_folder(o.out, o.force);
  if (!same_config && fs::exists(out_config, ignored) && !o.force)
    fail(ExitCode::usage, "{} exists: give another folder, or --force to replace it",
         out_config.string());

  const auto tensors = io::model_tensors(config);
  const auto weights = io::make_random_checkpoint(config, o.seed);
  io::WriteCheckpointOptions options;
  options.max_shard_bytes = static_cast<int64_t>(o.shard_bytes);
  options.force = o.force;
  const io::WrittenCheckpoint written = io::write_checkpoint(*weights, tensors, o.out, options);
  io::write_file_atomically(out_config, text, o.force || same_config);
  copy_companions(o);
  std::printf("%s: %zu tensors, %.1f MB of %s in %zu files, seed %llu\n", o.out.c_str(),
              tensors.size(), static_cast<double>(written.total_bytes) / 1e6,
              std::string(dtype_name(config.stored_dtype)).c_str(), written.files.size(),
              static_cast<unsigned long long>(o.seed));
  return 0;
}

}  // namespace

Action add_make_checkpoint_command(CLI::App& app) {
  auto o = std::make_shared<MakeCheckpointOptions>();
  app.add_option("--config", o->config, "a model folder, or a config.json")->required();
  app.add_option("--out", o->out, "the folder to write to; made where it does not exist")
      ->required();
  app.add_option("--seed", o->seed, "of the random weights")->capture_default_str();
  app.add_option("--dtype", o->dtype, "bf16, f16 or f32; as the config says where not given")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app.add_option("--shard-size", o->shard_bytes, "most bytes of tensors in a file, such as 500MB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 60))
      ->capture_default_str();
  app.add_flag("--force", o->force, "replace a checkpoint that is there");
  return [o] { return make_checkpoint(*o); };
}

}  // namespace longhaul::apps
