// Checkpoints written and read again: the same bytes, any shard size, and nothing half-written.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/io/safetensors_writer.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

namespace fs = std::filesystem;

io::ModelConfig config_of(const std::string& name) {
  return io::read_model_config(fs::path(LONGHAUL_TEST_DATA) / "golden" / name);
}

std::set<std::string> names_in(const fs::path& dir) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.insert(entry.path().filename());
  return names;
}

void expect_same(io::Checkpoint& a, io::Checkpoint& b, const io::ModelConfig& config) {
  for (const io::TensorSpec& spec : io::model_tensors(config)) {
    const ConstTensorView x = a.tensor(spec.name, spec.shape), y = b.tensor(spec.name, spec.shape);
    ASSERT_EQ(x.dtype, y.dtype) << spec.name;
    ASSERT_EQ(std::memcmp(x.data, y.data, static_cast<size_t>(x.num_bytes())), 0) << spec.name;
    a.release(spec.name);
    b.release(spec.name);
  }
}

TEST(Writer, RandomWeightsComeBackFromShardsOfAnySize) {
  for (const char* name : {"qwen3_moe_mixed", "qwen2", "llama", "qwen3_bias", "llama_bias_tied"}) {
    const io::ModelConfig config = config_of(name);
    for (int64_t most : {int64_t{1}, int64_t{50'000}, int64_t{1} << 40}) {
      // A file a tensor is slow (each is synced), so once.
      if (most == 1 && config.model_type != "llama") continue;
      SCOPED_TRACE(fmt::format("{} {}", name, most));
      const TemporaryFolder dir;
      const auto weights = io::make_random_checkpoint(config, 5);
      const auto tensors = io::model_tensors(config);
      const io::WrittenCheckpoint written =
          io::write_checkpoint(*weights, tensors, dir.path(), {.max_shard_bytes = most});
      EXPECT_EQ(names_in(dir.path()),
                (std::set<std::string>(written.files.begin(), written.files.end())));
      EXPECT_EQ(written.total_bytes, weights->total_bytes());
      const auto read = io::open_safetensors(dir.path());
      EXPECT_EQ(read->total_bytes(), weights->total_bytes());
      EXPECT_EQ(read->list().size(), tensors.size());
      expect_same(*weights, *read, config);
      if (most == 1) {
        EXPECT_EQ(written.files.size(), tensors.size() + 1);
      }
      if (most == int64_t{1} << 40) {
        EXPECT_EQ(written.files, std::vector<std::string>{"model.safetensors"});
      }
      for (const io::TensorInfo& info : read->list()) EXPECT_LE(info.bytes, read->total_bytes());
    }
  }
}

TEST(Writer, ShardsHoldAtMostWhatWasAskedUnlessOneTensorIsLarger) {
  const io::ModelConfig config = config_of("qwen3");
  const TemporaryFolder dir;
  const auto weights = io::make_random_checkpoint(config, 5);
  constexpr int64_t most = 30'000;
  (void)io::write_checkpoint(*weights, io::model_tensors(config), dir.path(),
                             {.max_shard_bytes = most});
  std::map<std::string, std::vector<int64_t>> sizes;
  for (const io::TensorInfo& info : io::open_safetensors(dir.path())->list())
    sizes[info.file].push_back(info.bytes);
  EXPECT_GT(sizes.size(), 3U);
  for (const auto& [file, tensors] : sizes) {
    int64_t sum = 0;
    for (int64_t bytes : tensors) sum += bytes;
    EXPECT_TRUE(sum <= most || tensors.size() == 1) << file;
  }
}

TEST(Writer, CopiesAStoredCheckpointWithItsDtypes) {
  const fs::path source = fs::path(LONGHAUL_TEST_DATA) / "golden" / "qwen3_bias";
  const io::ModelConfig config = io::read_model_config(source);
  const TemporaryFolder dir;
  const auto from = io::open_safetensors(source);
  (void)io::write_checkpoint(*from, io::model_tensors(config), dir.path());
  expect_same(*from, *io::open_safetensors(dir.path()), config);
}

TEST(Writer, HeadersAreAlignedAndNamedForTransformers) {
  const io::ModelConfig config = config_of("llama");
  const TemporaryFolder dir;
  const auto weights = io::make_random_checkpoint(config, 5);
  (void)io::write_checkpoint(*weights, io::model_tensors(config), dir.path(),
                             {.max_shard_bytes = 100'000});
  const auto index = nlohmann::json::parse(read_bytes(dir / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], weights->total_bytes());
  EXPECT_EQ(index["metadata"]["total_parameters"], weights->total_bytes() / 4);
  const std::string first = index["weight_map"]["model.embed_tokens.weight"];
  EXPECT_TRUE(first.starts_with("model-00001-of-0000")) << first;
  const std::string bytes = read_bytes(dir / first);
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_NE(bytes.find(R"("__metadata__":{"format":"pt"})"), std::string::npos);
}

TEST(Writer, RefusesToReplaceUnlessForced) {
  const io::ModelConfig config = config_of("qwen2");
  const TemporaryFolder dir;
  const auto tensors = io::model_tensors(config);
  const auto first = io::make_random_checkpoint(config, 1),
             second = io::make_random_checkpoint(config, 2);
  (void)io::write_checkpoint(*first, tensors, dir.path(), {.max_shard_bytes = 20'000});
  const auto before = names_in(dir.path());
  expect_refused([&] { (void)io::write_checkpoint(*second, tensors, dir.path()); }, ExitCode::usage,
                 {dir.path().string(), "--force"}, "exists");
  EXPECT_EQ(names_in(dir.path()), before);
  expect_same(*first, *io::open_safetensors(dir.path()), config);

  write_bytes(dir / "config.json", "{}");
  (void)io::write_checkpoint(*second, tensors, dir.path(), {.force = true});
  EXPECT_EQ(names_in(dir.path()), (std::set<std::string>{"config.json", "model.safetensors"}));
  expect_same(*second, *io::open_safetensors(dir.path()), config);
  (void)io::write_checkpoint(*first, tensors, dir.path(),
                             {.max_shard_bytes = 20'000, .force = true});
  expect_same(*first, *io::open_safetensors(dir.path()), config);
  EXPECT_FALSE(names_in(dir.path()).contains("model.safetensors"));
}

TEST(Writer, RefusesAFileForAFolder) {
  const TemporaryFolder dir;
  write_bytes(dir / "file", "x");
  expect_refused([&] { io::check_checkpoint_folder(dir / "file", true); }, ExitCode::usage,
                 {"no folder"}, "a file");
  EXPECT_NO_THROW(io::check_checkpoint_folder(dir / "new", false));
}

// A limit on the size of files stands in for a full disk: the error comes at the same calls.
TEST(Writer, LeavesNothingWhenTheDiskIsFull) {
  const io::ModelConfig config = config_of("qwen3");
  const auto weights = io::make_random_checkpoint(config, 1);
  const auto tensors = io::model_tensors(config);
  struct rlimit old {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (int64_t limit : {0, 10, 5'000, 40'000, 200'000}) {
    const TemporaryFolder dir;
    const struct rlimit low = {static_cast<rlim_t>(limit), old.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
    expect_refused(
        [&] {
          (void)io::write_checkpoint(*weights, tensors, dir.path(), {.max_shard_bytes = 300'000});
        },
        ExitCode::resource, {dir.path().string(), "nothing was left behind"},
        std::to_string(limit));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
    EXPECT_TRUE(names_in(dir.path()).empty()) << limit << ": " << *names_in(dir.path()).begin();
  }
  (void)std::signal(SIGXFSZ, old_handler);
}

// A tensor that cannot be read ends the writing with nothing left either.
TEST(Writer, LeavesNothingWhenATensorIsMissing) {
  const io::ModelConfig config = config_of("qwen3");
  const auto weights = io::make_random_checkpoint(config, 1);
  auto tensors = io::model_tensors(config);
  tensors.back().shape = {1, 2};
  const TemporaryFolder dir;
  expect_refused([&] { (void)io::write_checkpoint(*weights, tensors, dir.path()); },
                 ExitCode::mismatch, {tensors.back().name}, "misshapen");
  EXPECT_TRUE(names_in(dir.path()).empty());
}

}  // namespace
}  // namespace longhaul::test
