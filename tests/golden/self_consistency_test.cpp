// What no golden is needed for: any way of splitting gives the same numbers, the needle is found,
// and no token reaches where it must not.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "runtime/io/checkpoint.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/model_tensors.h"
#include "runtime/io/prompts.h"
#include "runtime/io/safetensors_writer.h"
#include "runtime/ops/elementwise.h"
#include "tests/support/model_runner.h"
#include "tests/support/subprocess.h"

namespace longhaul::test {
namespace {

namespace fs = std::filesystem;
using layout::LayoutKind;

const fs::path kData = LONGHAUL_TEST_DATA;

// Between any two ways of splitting the same float64 sums: reordering noise of some thousand terms
// of 1.1e-16 each, amplified by the layers.
constexpr double kTolerance64 = 1e-12;

void expect_equal_tensors(const RunOutput& a, const RunOutput& b, double tolerance,
                          const std::string& what) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size()) << what;
  for (const auto& [name, sequences] : b.tensors)
    for (const auto& [s, expected] : sequences) {
      const CapturedRows& got = a.tensors.at(name).at(s);
      ASSERT_EQ(got.values.size(), expected.values.size()) << what << name;
      EXPECT_LE(error_over_rms(got.values, expected.values), tolerance)
          << what << name << " of sequence " << s;
    }
  EXPECT_EQ(a.result.generated, b.result.generated) << what;
}

RunSpec random_spec(std::mt19937& rng, const fs::path& model, int vocab) {
  auto pick = [&](int from, int to) { return std::uniform_int_distribution<int>(from, to)(rng); };
  static const int kPrimes[] = {1, 2, 3, 5, 7, 11, 13, 17, 31, 61, 89, 127};
  RunSpec spec;
  spec.model = model;
  const int batch = pick(1, 5);
  for (int s = 0; s < batch; ++s) {
    std::vector<int32_t> tokens(static_cast<size_t>(kPrimes[pick(0, 11)]));
    for (int32_t& t : tokens) t = pick(0, vocab - 1);
    spec.prompts.push_back(std::move(tokens));
  }
  spec.dtype = DType::f64;
  spec.engine.generate = pick(0, 4);
  return spec;
}

TEST(SelfConsistency, AnySplitIsTheSameInFloat64) {
  std::mt19937 rng(20261120);
  const char* models[] = {"qwen3", "qwen3_moe", "llama", "qwen2", "qwen3_bias"};
  for (int i = 0; i < 40; ++i) {
    RunSpec spec = random_spec(rng, kData / "golden" / models[i % 5], 320);
    const RunOutput whole = run_on_threads(spec);
    spec.ranks = std::uniform_int_distribution<int>(2, 8)(rng);
    spec.engine.layout = static_cast<LayoutKind>(std::uniform_int_distribution<int>(0, 2)(rng));
    spec.engine.chunk_tokens = std::uniform_int_distribution<int>(0, 1)(rng) == 0
                                   ? 0
                                   : std::uniform_int_distribution<int>(1, 70)(rng);
    spec.executor.page_size = std::uniform_int_distribution<int>(1, 70)(rng);
    spec.executor.attention.two_calls = i % 3 == 0;
    const RunOutput split = run_on_threads(spec);
    expect_equal_tensors(
        split, whole, kTolerance64,
        fmt::format("case {} ({} ranks, {}, chunk {}): ", i, spec.ranks,
                    layout::layout_name(spec.engine.layout), spec.engine.chunk_tokens));
  }
}

// Changing token i of one sequence changes nothing before i and nothing in other sequences: bit for
// bit for a dense model on the reference backend.
TEST(SelfConsistency, NoTokenReachesEarlierOnesOrOtherSequences) {
  std::mt19937 rng(7);
  for (int i = 0; i < 12; ++i) {
    RunSpec spec = random_spec(rng, kData / "golden" / (i % 2 == 0 ? "qwen3" : "llama"), 320);
    spec.dtype = i % 3 == 0 ? DType::f64 : DType::f32;
    spec.backend = "reference";
    spec.ranks = 1 + i % 5;
    spec.engine.layout = static_cast<LayoutKind>(i % 3);
    spec.engine.chunk_tokens = i % 4 == 0 ? 23 : 0;
    spec.engine.generate = 0;
    const RunOutput before = run_on_threads(spec);
    const auto s = static_cast<size_t>(rng() % spec.prompts.size());
    const auto at = static_cast<size_t>(rng() % spec.prompts[s].size());
    spec.prompts[s][at] = (spec.prompts[s][at] + 1) % 320;
    const RunOutput after = run_on_threads(spec);
    bool changed = false;
    for (const auto& [name, sequences] : before.tensors)
      for (const auto& [q, rows] : sequences) {
        const CapturedRows& other = after.tensors.at(name).at(q);
        const size_t same_until = static_cast<size_t>(q) == s
                                      ? at * static_cast<size_t>(rows.row_elements)
                                      : rows.values.size();
        for (size_t e = 0; e < rows.values.size(); ++e) {
          if (e < same_until)
            ASSERT_EQ(rows.values[e], other.values[e]) << name << " sequence " << q << " at " << e;
          else
            changed = changed || rows.values[e] != other.values[e];
        }
      }
    EXPECT_TRUE(changed) << "the changed token changed nothing at all";
  }
}

// A checkpoint whose weights are those of another, some of them widened to float32.
class WidenedCheckpoint : public io::Checkpoint {
 public:
  explicit WidenedCheckpoint(std::unique_ptr<io::Checkpoint> from) : from_(std::move(from)) {}
  bool has(std::string_view name) const override { return from_->has(name); }
  ConstTensorView tensor(std::string_view name, const Shape& expected) override {
    const ConstTensorView stored = from_->tensor(name, expected);
    if (!widens(name)) return stored;
    Tensor& wide = wide_[std::string(name)] = Tensor(DType::f32, expected);
    ops::convert(stored, wide);
    return wide;
  }
  void release(std::string_view name) override { from_->release(name); }
  std::vector<std::string> unused() const override { return from_->unused(); }
  std::vector<io::TensorInfo> list() const override { return from_->list(); }
  DType dtype_of(std::string_view name) const override {
    return widens(name) ? DType::f32 : from_->dtype_of(name);
  }
  int64_t total_bytes() const override { return from_->total_bytes(); }
  uint64_t fingerprint() const override { return from_->fingerprint(); }

 private:
  static bool widens(std::string_view name) {
    return name.find("k_proj") != name.npos || name.find("up_proj") != name.npos;
  }
  std::unique_ptr<io::Checkpoint> from_;
  std::map<std::string, Tensor> wide_;
};

// q, k and v (gate and up) are one matrix of ours; stored in different types they are the same one.
TEST(SelfConsistency, StoredTypesOfOneMatrixMayDiffer) {
  const fs::path original = kData / "golden" / "qwen3";
  const io::ModelConfig config = io::read_model_config(original);
  const TemporaryFolder folder;
  WidenedCheckpoint widened(io::open_safetensors(original));
  std::vector<io::TensorSpec> tensors = io::model_tensors(config);
  io::write_checkpoint(widened, tensors, folder.path());
  fs::copy_file(original / "config.json", folder / "config.json");
  RunSpec spec;
  spec.prompts = {{1, 2, 3, 4, 5, 6, 7}, {8, 9, 10}};
  spec.model = original;
  const RunOutput expected = run_on_threads(spec);
  spec.model = folder.path();
  expect_equal_tensors(run_on_threads(spec), expected, 0, "mixed types: ");
}

struct Needle {
  std::vector<io::Prompt> prompts;
  RunSpec spec;
};

Needle needle(DType dtype, int ranks) {
  Needle n;
  const fs::path dir = kData / "needle";
  const auto tokenizer = io::load_tokenizer(dir, 256);
  n.prompts = io::read_prompts(dir / "prompts.jsonl", tokenizer.get(), 256);
  n.spec.model = dir;
  for (const io::Prompt& p : n.prompts) n.spec.prompts.push_back(p.tokens);
  n.spec.dtype = dtype;
  n.spec.ranks = ranks;
  n.spec.engine.generate = 6;
  n.spec.wants = [](std::string_view name) { return name == "logits"; };
  return n;
}

class NeedleTest : public testing::TestWithParam<std::tuple<DType, int>> {};

TEST_P(NeedleTest, AllAnswersAreRight) {
  const auto [dtype, ranks] = GetParam();
  const Needle n = needle(dtype, ranks);
  const RunOutput out = run_on_threads(n.spec);
  io::Hdf5File golden = io::Hdf5File::open(kData / "needle" / "golden.h5");
  for (size_t s = 0; s < n.prompts.size(); ++s) {
    const io::Prompt& p = n.prompts[s];
    std::string text;
    for (int32_t t : out.result.generated[s]) text += static_cast<char>(t);
    EXPECT_EQ(text, *p.answer + ".") << p.id;
    if (dtype != DType::f32) continue;
    io::Hdf5Dataset d = golden.open_dataset(p.id + "/last_logits");
    std::vector<float> expected(256);
    d.read_rows(0, d.rows(), expected.data());
    const CapturedRows& logits = out.tensors.at("logits").at(static_cast<int>(s));
    const auto row = logits.values.begin() + static_cast<int64_t>(p.tokens.size() - 1) * 256;
    // That golden has float32 RoPE angles: wrong by up to position * 6e-8 rad, 1e-3 at 16,384.
    EXPECT_LE(error_over_rms({row, row + 256}, {expected.begin(), expected.end()}), 1e-3) << p.id;
  }
}

INSTANTIATE_TEST_SUITE_P(All, NeedleTest,
                         testing::Values(std::tuple{DType::f32, 1}, std::tuple{DType::f32, 3},
                                         std::tuple{DType::bf16, 2}, std::tuple{DType::bf16, 4}));

}  // namespace
}  // namespace longhaul::test
