// Everything a person can get wrong with `longhaul run`: one clear line, the documented exit code,
// nothing half-written; on one rank and under mpirun.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

namespace fs = std::filesystem;

const std::string kBinary = LONGHAUL_BINARY;
const std::string kMpirun = LONGHAUL_MPIRUN;
const std::string kData = LONGHAUL_TEST_DATA;
const std::string kModel = kData + "/golden/qwen3";
const std::string kPrompts = kModel + "/prompts.json";

std::string run_line(const std::string& model, const std::string& prompts,
                     const std::string& more = "") {
  return kBinary + " run --model '" + model + "' --prompts '" + prompts + "' " + more;
}

std::string good(const std::string& more = "") {
  return run_line(kModel, kPrompts, more);
}

std::string under_mpirun(int ranks, const std::string& command) {
  return kMpirun + " -np " + std::to_string(ranks) + " " + command;
}

// The lines that are ours and say what is wrong: not mpirun's own, not logs.
std::vector<std::string> complaints(const Finished& f) {
  return lines_with_prefix(f.err, "longhaul");
}

void expect_complaint(const std::string& command, int exit_code,
                      const std::vector<std::string>& words) {
  const Finished f = run_command(command, 60);
  EXPECT_FALSE(f.timed_out) << command;
  EXPECT_EQ(f.exit_code, exit_code) << command << "\n" << f.err;
  const auto lines = complaints(f);
  ASSERT_EQ(lines.size(), 1u) << command << "\n" << f.err;
  for (const std::string& word : words)
    EXPECT_NE(lines.front().find(word), std::string::npos)
        << "'" << word << "' is not in: " << lines.front();
}

// A copy of a golden model that may be spoilt.
class SpoiltModel {
 public:
  explicit SpoiltModel(const std::string& name) {
    for (const auto& e : fs::directory_iterator(kData + "/golden/" + name))
      if (e.path().filename() != "golden.h5") fs::copy_file(e.path(), path(e.path().filename()));
  }
  std::string path(const std::string& file) const { return folder_ / file; }
  const std::string& dir() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

TEST(RunBadInput, ModelFolder) {
  expect_complaint(run_line("/no/such/model", kPrompts), 2, {"/no/such/model"});
  expect_complaint(under_mpirun(3, run_line("/no/such/model", kPrompts)), 2, {"/no/such/model"});
  const TemporaryFolder empty;
  expect_complaint(run_line(empty.path(), kPrompts), 2, {"config.json"});
  SpoiltModel no_weights("qwen3");
  fs::remove(no_weights.path("model.safetensors"));
  expect_complaint(run_line(no_weights.dir(), kPrompts), 2, {"model.safetensors"});
}

TEST(RunBadInput, ConfigThatLonghaulDoesNotRun) {
  SpoiltModel m("qwen3");
  const std::string config = read_text(m.path("config.json"));
  auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    write_text(m.path("config.json"), changed.replace(at, from.size(), to));
    return run_line(m.dir(), kPrompts);
  };
  expect_complaint(with("\"model_type\": \"qwen3\"", "\"model_type\": \"qwen9\""), 2,
                   {"model_type", "qwen9", "qwen3"});
  expect_complaint(with("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""), 2, {"gelu"});
  expect_complaint(with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), 4,
                   {"num_key_value_heads", "3"});
  expect_complaint(with("\"full_attention\"", "\"sliding_attention\""), 2, {"sliding"});
  expect_complaint(with("{", "{,"), 4, {"config.json"});
}

TEST(RunBadInput, DamagedWeights) {
  SpoiltModel m("qwen3");
  const std::string file = read_text(m.path("model.safetensors"));
  auto with = [&](const std::string& bytes) {
    write_text(m.path("model.safetensors"), bytes);
    return run_line(m.dir(), kPrompts);
  };
  expect_complaint(with(file.substr(0, file.size() - 10)), 4, {"model.safetensors"});
  expect_complaint(under_mpirun(2, with(file.substr(0, 4))), 4, {"model.safetensors"});
  std::string oversize = file;
  oversize[7] = '\x7f';  // the header's length
  expect_complaint(with(oversize), 4, {"model.safetensors"});
  std::string not_utf8 = file;
  not_utf8[not_utf8.find("model.norm")] = '\xff';
  expect_complaint(with(not_utf8), 4, {"model.safetensors"});
  std::string renamed = file;
  renamed.replace(renamed.find("model.norm.weight"), 17, "model.narm.weight");
  expect_complaint(with(renamed), 3, {"model.norm.weight"});
}

TEST(RunBadInput, MisshapenTensorNamesBothShapes) {
  SpoiltModel m("qwen3");
  std::string config = read_text(m.path("config.json"));
  const std::string from = "\"intermediate_size\": 160";
  config.replace(config.find(from), from.size(), "\"intermediate_size\": 161");
  write_text(m.path("config.json"), config);
  expect_complaint(run_line(m.dir(), kPrompts), 3, {"gate_proj", "[161, 64]", "[160, 64]"});
}

TEST(RunBadInput, Shards) {
  SpoiltModel m("qwen3_bias");
  fs::remove(m.path("model-00003-of-00007.safetensors"));
  expect_complaint(run_line(m.dir(), m.path("prompts.json")), 3, {"model-00003-of-00007"});
  std::string index = read_text(m.path("model.safetensors.index.json"));
  const std::string from = "model-00003-of-00007.safetensors";
  index.replace(index.find(from), from.size(), "../model-00003.safetensors");
  write_text(m.path("model.safetensors.index.json"), index);
  expect_complaint(run_line(m.dir(), m.path("prompts.json")), 4, {"../model-00003.safetensors"});
}

TEST(RunBadInput, Prompts) {
  const TemporaryFolder f;
  auto with = [&](const std::string& name, const std::string& text) {
    write_text(f / name, text);
    return run_line(kModel, f / name);
  };
  expect_complaint(run_line(kModel, f / "absent.json"), 2, {"absent.json"});
  expect_complaint(with("a.json", "[[1, 2, 320]]"), 2, {"320"});
  expect_complaint(with("a.json", "[[1, -2]]"), 2, {"-2"});
  expect_complaint(with("a.json", "[[1], []]"), 2, {"empty"});
  expect_complaint(with("a.json", "[[1], "), 4, {"a.json"});
  expect_complaint(with("a.jsonl", "{\"tokens\": [1, 2]}\n{\"tokens\": [1,\n"), 4, {"a.jsonl:2"});
  expect_complaint(with("a.jsonl", "{\"text\": \"no tokenizer here\"}\n"), 2, {"tokenizer"});
  expect_complaint(with("a.txt", "hello"), 2, {".json"});
  expect_complaint(under_mpirun(2, with("a.json", "[[1, 2, 320]]")), 2, {"320"});
}

TEST(RunBadInput, PromptLongerThanTheModelIsAWarningOrWithStrictAnError) {
  const TemporaryFolder f;
  std::string tokens = "1";
  for (int i = 0; i < 4096; ++i) tokens += ",1";
  write_text(f / "long.json", "[[" + tokens + "]]");
  expect_complaint(run_line(kModel, f / "long.json", "--strict"), 2,
                   {"4097", "4096", "max_position_embeddings"});
  const Finished warned = run_command(run_line(kModel, f / "long.json"), 60);
  EXPECT_EQ(warned.exit_code, 0) << warned.err;
  EXPECT_NE(warned.err.find("max_position_embeddings"), std::string::npos) << warned.err;
}

TEST(RunBadInput, OptionsAndNames) {
  expect_complaint(good("--promts x"), 2, {"--promts", "--prompts"});
  expect_complaint(kBinary + " rnu --model x", 2, {"rnu", "run"});
  expect_complaint(good("--layout zigzak"), 2, {"zigzak", "zigzag"});
  expect_complaint(good("--strategy algather"), 2, {"algather", "allgather"});
  expect_complaint(good("--backend referense"), 2, {"referense", "reference"});
  expect_complaint(good("--backend cpu --dtype f64"), 2, {"cpu", "float64"});
  expect_complaint(good("--dtype f33"), 2, {"f33", "bf16"});
  expect_complaint(good("--generate -1"), 2, {"--generate"});
  expect_complaint(good("--generate 9223372036854775807 --strict"), 2, {"--generate"});
  expect_complaint(good("--chunk 99999999999999999999"), 2, {"--chunk"});
  expect_complaint(good("--output ''"), 2, {"--output", "empty"});
  expect_complaint(good("> /dev/full"), 5, {"stdout"});
  expect_complaint(good("--generate many"), 2, {"--generate", "many"});
  expect_complaint(good("--threads 100000"), 2, {"--threads", "1024"});
  expect_complaint(good("--timeout 0"), 2, {"--timeout"});
  expect_complaint(good("--dump-filter '*'"), 2, {"--dump-filter", "--dump"});
  expect_complaint(kBinary + " run --model " + kModel, 2, {"--prompts"});
  expect_complaint(under_mpirun(3, good("--layout zigzak")), 2, {"zigzak", "zigzag"});
  expect_complaint(under_mpirun(3, good("--promts x")), 2, {"--promts", "--prompts"});
}

TEST(RunBadInput, DegreesThatDoNotMultiplyToTheRanks) {
  expect_complaint(under_mpirun(3, good("--cp 2")), 2, {"2", "3"});
  expect_complaint(good("--cp 4"), 2, {"4", "1"});
}

// Rank 0 runs one command and the others another. Not mpirun's "A : B": Open MPI 5.0.7's crashes.
std::string unlike(const TemporaryFolder& f, int ranks, const std::string& rank_0,
                   const std::string& others) {
  write_text(f / "rank.sh", "if [ \"$OMPI_COMM_WORLD_RANK\" = 0 ]; then exec " + rank_0 +
                                "; fi\nexec " + others + "\n");
  return under_mpirun(ranks, "bash " + (f / "rank.sh"));
}

TEST(RunBadInput, RanksStartedDifferently) {
  const TemporaryFolder f;
  const std::string a = good("--layout zigzag"), b = good("--layout balanced");
  expect_complaint(unlike(f, 3, a, b), 2, {"zigzag", "balanced", "rank 1"});
  SpoiltModel other("qwen3");
  std::string file = read_text(other.path("model.safetensors"));
  const size_t at = file.find("format");
  ASSERT_NE(at, std::string::npos);
  file[at] = 'F';  // another header, and so another file
  write_text(other.path("model.safetensors"), file);
  expect_complaint(unlike(f, 2, good(), run_line(other.dir(), kPrompts)), 3,
                   {"checkpoint", "rank 1"});
  write_text(f / "p.json", "[[1,2,3]]");
  expect_complaint(unlike(f, 2, good(), run_line(kModel, f / "p.json")), 2, {"prompt", "rank 1"});
}

TEST(RunBadInput, ChangedWeightsAreFoundThoughTheHeaderIsTheSame) {
  SpoiltModel other("llama");
  std::string file = read_text(other.path("model.safetensors"));
  file[file.size() - 1000] = static_cast<char>(file[file.size() - 1000] ^ 1);
  write_text(other.path("model.safetensors"), file);
  const std::string llama = kData + "/golden/llama", prompts = llama + "/prompts.json";
  expect_complaint(
      kMpirun + " -np 1 " + run_line(llama, prompts) + " : -np 1 " + run_line(other.dir(), prompts),
      3, {"weights", "rank 1"});
}

TEST(RunBadInput, SlurmWithoutPmi) {
  expect_complaint(
      "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_JOB_ID=1 SLURM_STEP_ID=0 "
      "SLURM_STEP_NUM_TASKS=4 " +
          good(),
      2, {"pmix", "4"});
}

TEST(RunBadInput, OutputExists) {
  const TemporaryFolder f;
  write_text(f / "out.json", "precious");
  expect_complaint(good("--output " + (f / "out.json")), 2, {"out.json", "--force"});
  EXPECT_EQ(read_text(f / "out.json"), "precious");
  expect_complaint(under_mpirun(2, good("--output " + (f / "out.json"))), 2, {"out.json"});
  const Finished forced = run_command(good("--force --output " + (f / "out.json")), 60);
  EXPECT_EQ(forced.exit_code, 0) << forced.err;
  EXPECT_NE(read_text(f / "out.json").find("\"sequences\""), std::string::npos);
  fs::create_directory(f / "dump");
  write_text(f / "dump/notes.txt", "precious");
  expect_complaint(good("--dump " + (f / "dump")), 2, {"dump"});
  expect_complaint(good("--force --dump " + (f / "dump")), 2, {"dump"});
  EXPECT_EQ(read_text(f / "dump/notes.txt"), "precious");
  expect_complaint(good("--output /no/such/folder/out.json"), 2, {"/no/such/folder"});
}

TEST(RunBadInput, DiskFullWhileDumping) {
  const TemporaryFolder f;
  // A limit on the file size stands in for a full disk: the same code path, no mount needed.
  expect_complaint("ulimit -f 100; " + good("--dump " + (f / "dump")), 5, {"rank_0000.h5"});
  expect_complaint(good("--dump " + (f / "never") + " --dump-filter '[z'"), 2, {"[z"});
  EXPECT_FALSE(fs::exists(f / "never"));
  for (const auto& e : fs::directory_iterator(f / "dump"))
    ADD_FAILURE() << "left behind: " << e.path();
  // Under mpirun the limit leaves room for what MPI itself keeps in files, which Open MPI 5 keeps
  // smaller than the limit when told to.
  const std::string moe = kData + "/golden/qwen3_moe";
  expect_complaint(
      "OMPI_MCA_btl_sm_segment_size=1048576 " +
          under_mpirun(2, "bash -c \"ulimit -f 6000; exec " +
                              run_line(moe, moe + "/prompts.json", "--dump " + (f / "dump2")) +
                              "\""),
      5, {"rank_000"});
  EXPECT_FALSE(fs::exists(f / "dump2/manifest.json"));
}

TEST(RunBadInput, GpuOptions) {
  expect_complaint(good("--exchange pear"), 2, {"--exchange", "pear", "peer"});
  expect_complaint(good("--backend cpu --deterministic"), 2, {"--deterministic", "cpu"});
  expect_complaint(under_mpirun(2, good("--backend cpu --deterministic")), 2,
                   {"--deterministic", "cpu"});
  // Where there is a GPU these say what GPUs do not do, elsewhere that there is none.
  expect_complaint(good("--backend cuda --dtype f64"), 2, {"cuda"});
  expect_complaint(good("--trace /no/such/folder/t.json"), 2, {"/no/such/folder"});
}

}  // namespace
}  // namespace longhaul::test
