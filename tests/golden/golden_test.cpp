// Against transformers' own numbers (tests/data/golden): every tensor and the greedy tokens, at any
// rank count, layout and chunking, on every backend.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/io/hdf5_file.h"
#include "tests/support/model_runner.h"

namespace longhaul::test {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(LONGHAUL_TEST_DATA) / "golden";
constexpr int64_t kGreedyTokens = 8;

// The goldens' arithmetic is float64 but for what transformers casts to float32 whatever the
// model's dtype (the softmax of its eager attention, the insides of its norms), stored as float32.
// float32: transformers' own float32 run is within 2e-5 of them; 5e-5 leaves room for another order
// of summation and no more. float64: what is left is those casts, a few roundings of 6e-8 a layer
// of elements up to some 10 times the RMS; 3e-6 at the most is seen.
constexpr double kTolerance32 = 5e-5;
constexpr double kTolerance64 = 1e-5;

std::vector<fs::path> golden_models() {
  std::vector<fs::path> dirs;
  for (const auto& e : fs::directory_iterator(kGoldens))
    if (fs::exists(e.path() / "golden.h5")) dirs.push_back(e.path());
  std::sort(dirs.begin(), dirs.end());
  return dirs;
}

std::vector<int32_t> read_ints(io::Hdf5File& file, const std::string& path) {
  io::Hdf5Dataset d = file.open_dataset(path);
  std::vector<int32_t> values(static_cast<size_t>(d.shape().num_elements()));
  d.read_rows(0, d.rows(), values.data());
  return values;
}

std::vector<double> read_floats(io::Hdf5File& file, const std::string& path) {
  io::Hdf5Dataset d = file.open_dataset(path);
  std::vector<float> values(static_cast<size_t>(d.shape().num_elements()));
  d.read_rows(0, d.rows(), values.data());
  return {values.begin(), values.end()};
}

std::vector<double> rows_of(const CapturedRows& c, const std::vector<int32_t>& rows) {
  std::vector<double> values;
  for (int32_t r : rows) {
    const auto begin = c.values.begin() + r * c.row_elements;
    values.insert(values.end(), begin, begin + c.row_elements);
  }
  return values;
}

struct Case {
  fs::path model;
  int ranks;
  layout::LayoutKind layout;
  int64_t chunk;
  DType dtype;
  std::string backend;
  bool two_calls = false;
};

std::string name_of(const Case& c) {
  return fmt::format("{}_np{}_{}_chunk{}_{}_{}{}", c.model.filename().string(), c.ranks,
                     layout::layout_name(c.layout), c.chunk, dtype_name(c.dtype), c.backend,
                     c.two_calls ? "_two" : "");
}

void PrintTo(const Case& c, std::ostream* out) {
  *out << name_of(c);
}

std::vector<Case> all_cases() {
  using layout::LayoutKind;
  std::vector<Case> cases;
  for (const fs::path& model : golden_models()) {
    for (int ranks : {1, 2, 3, 4, 8})
      for (LayoutKind layout : {LayoutKind::zigzag, LayoutKind::balanced})
        for (int64_t chunk : {0, 50}) {
          if (ranks == 1 && layout == LayoutKind::balanced) continue;  // the same as zigzag's
          cases.push_back({model, ranks, layout, chunk, DType::f32, "cpu"});
        }
    cases.push_back({model, 3, LayoutKind::contiguous, 50, DType::f32, "cpu"});
    cases.push_back({model, 3, LayoutKind::zigzag, 0, DType::f32, "cpu", true});
    cases.push_back({model, 1, LayoutKind::zigzag, 0, DType::f32, "reference"});
    cases.push_back({model, 4, LayoutKind::balanced, 50, DType::f32, "reference"});
    cases.push_back({model, 1, LayoutKind::zigzag, 0, DType::f64, "reference"});
    cases.push_back({model, 3, LayoutKind::balanced, 50, DType::f64, "reference"});
  }
  return cases;
}

// The same on a GPU, whose memory the thread ranks share; skipped where there is none.
std::vector<Case> gpu_cases() {
  using layout::LayoutKind;
  std::vector<Case> cases;
  for (const fs::path& model : golden_models())
    for (int ranks : {1, 2, 4})
      for (int64_t chunk : {0, 50})
        cases.push_back({model, ranks, ranks == 2 ? LayoutKind::zigzag : LayoutKind::balanced,
                         chunk, DType::f32, "cuda"});
  return cases;
}

class Golden : public testing::TestWithParam<Case> {};

void compare_sequence(io::Hdf5File& golden, int s, int num_layers, const RunOutput& out,
                      double tolerance) {
  const std::string seq = fmt::format("seq_{}/", s);
  const auto rows = read_ints(golden, seq + "rows");
  auto check = [&](const std::string& name, const std::string& path,
                   const std::vector<int32_t>& at) {
    const std::vector<double> expected = read_floats(golden, seq + path);
    EXPECT_LE(error_over_rms(rows_of(out.tensors.at(name).at(s), at), expected), tolerance)
        << name << " of sequence " << s;
  };
  for (int l = 0; l <= num_layers; ++l) {
    const std::string name = l == 0            ? "embedding"
                             : l == num_layers ? "final_norm"
                                               : fmt::format("layers.{:02}.hidden", l - 1);
    check(name, fmt::format("hidden/{}", l), rows);
  }
  for (int l = 0; l < num_layers; ++l) {
    check(fmt::format("layers.{:02}.k", l), fmt::format("k/{}", l), rows);
    check(fmt::format("layers.{:02}.v", l), fmt::format("v/{}", l), rows);
  }
  check("logits", "logits", read_ints(golden, seq + "logits_rows"));
  if (golden.has(seq + "greedy")) {
    EXPECT_EQ(out.result.generated.at(static_cast<size_t>(s)), read_ints(golden, seq + "greedy"))
        << "sequence " << s;
  }
}

TEST_P(Golden, EveryTensorAndTheGreedyTokens) {
  const Case& c = GetParam();
  RunSpec spec;
  spec.model = c.model;
  spec.prompts = read_token_lists(c.model / "prompts.json");
  spec.ranks = c.ranks;
  spec.dtype = c.dtype;
  spec.backend = c.backend;
  spec.engine.layout = c.layout;
  spec.engine.chunk_tokens = c.chunk;
  spec.engine.generate = kGreedyTokens;
  spec.executor.attention.two_calls = c.two_calls;
  if (c.backend == "cuda")
    if (const std::string why = why_backend_cannot_run(spec); !why.empty()) GTEST_SKIP() << why;
  const RunOutput out = run_on_threads(spec);

  const int num_layers = io::read_model_config(c.model).num_layers;
  io::Hdf5File golden = io::Hdf5File::open(c.model / "golden.h5");
  for (size_t s = 0; s < spec.prompts.size(); ++s)
    compare_sequence(golden, static_cast<int>(s), num_layers, out,
                     c.dtype == DType::f64 ? kTolerance64 : kTolerance32);
  // Every token of every tensor came, and came once.
  for (const auto& [name, sequences] : out.tensors)
    for (const auto& [s, captured] : sequences)
      for (int times : captured.times_written) ASSERT_EQ(times, 1) << name << " sequence " << s;
}

INSTANTIATE_TEST_SUITE_P(All, Golden, testing::ValuesIn(all_cases()),
                         [](const auto& param) { return name_of(param.param); });

INSTANTIATE_TEST_SUITE_P(Gpu, Golden, testing::ValuesIn(gpu_cases()),
                         [](const auto& param) { return name_of(param.param); });

// Root mean square of a - b over that of b.
double rms_error(const std::vector<double>& a, const std::vector<double>& b) {
  double errors = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    errors += (a[i] - b[i]) * (a[i] - b[i]);
    squares += b[i] * b[i];
  }
  return std::sqrt(errors / squares);
}

class GoldenBf16 : public testing::TestWithParam<fs::path> {};

// FlashAttention's rule for a whole model: the GPU's bf16 may be twice as far from the goldens as
// the CPU's bf16, and half a bf16 step (2^-9) on top, which a tensor that is a rounded input has.
TEST_P(GoldenBf16, AsGoodAsOnACpu) {
  RunSpec spec;
  spec.model = GetParam();
  spec.prompts = read_token_lists(spec.model / "prompts.json");
  spec.dtype = DType::bf16;
  spec.backend = "cuda";
  if (const std::string why = why_backend_cannot_run(spec); !why.empty()) GTEST_SKIP() << why;
  std::vector<RunOutput> gpu;
  for (int ranks : {1, 2, 4}) {
    spec.ranks = ranks;
    spec.engine.chunk_tokens = ranks == 2 ? 50 : 0;
    gpu.push_back(run_on_threads(spec));
  }
  spec.ranks = 1;
  spec.engine.chunk_tokens = 0;
  spec.backend = "cpu";
  const RunOutput cpu = run_on_threads(spec);
  const int num_layers = io::read_model_config(spec.model).num_layers;
  io::Hdf5File golden = io::Hdf5File::open(spec.model / "golden.h5");
  for (int s = 0; s < static_cast<int>(spec.prompts.size()); ++s) {
    const std::string seq = fmt::format("seq_{}/", s);
    const auto rows = read_ints(golden, seq + "rows");
    for (int l = 0; l < num_layers; ++l) {
      const std::string name = fmt::format("layers.{:02}.", l);
      const std::pair<std::string, std::string> pairs[] = {
          {name + "k", fmt::format("k/{}", l)},
          {name + "v", fmt::format("v/{}", l)},
          {l + 1 == num_layers ? "final_norm" : name + "hidden", fmt::format("hidden/{}", l + 1)}};
      for (const auto& [tensor, path] : pairs) {
        const auto expected = read_floats(golden, seq + path);
        const double bound =
            2 * rms_error(rows_of(cpu.tensors.at(tensor).at(s), rows), expected) + 0x1p-9;
        for (const RunOutput& out : gpu)
          EXPECT_LE(rms_error(rows_of(out.tensors.at(tensor).at(s), rows), expected), bound)
              << tensor << " of sequence " << s;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, GoldenBf16, testing::ValuesIn(golden_models()),
                         [](const auto& param) { return param.param.filename().string(); });

// --deterministic: the same bits on any number of ranks and in any chunks. The model's head_dim is
// one of the Hopper kernel's.
TEST(GpuDeterministic, SameBitsForAnySplit) {
  RunSpec spec;
  spec.model = kGoldens / "qwen3_yarn_mscale";
  spec.prompts = read_token_lists(spec.model / "prompts.json");
  spec.dtype = DType::bf16;
  spec.backend = "cuda";
  spec.executor.deterministic = true;
  if (const std::string why = why_backend_cannot_run(spec); !why.empty()) GTEST_SKIP() << why;
  const RunOutput whole = run_on_threads(spec);
  for (int ranks : {1, 2, 4}) {
    spec.ranks = ranks;
    spec.engine.chunk_tokens = 50;
    const RunOutput split = run_on_threads(spec);
    for (const auto& [name, sequences] : whole.tensors)
      for (const auto& [s, captured] : sequences)
        EXPECT_EQ(captured.values, split.tensors.at(name).at(s).values)
            << name << " of sequence " << s << " on " << ranks << " ranks";
  }
}

TEST(Goldens, AreThere) {
  EXPECT_GE(golden_models().size(), 5u);
}

}  // namespace
}  // namespace longhaul::test
