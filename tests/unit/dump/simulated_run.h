#pragma once
// A run without a model: tensors known for every (sequence, position), cut by layouts over several
// steps and written by one HdfDump a rank, all in this process.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/dump.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/merge.h"
#include "runtime/layout/context_parallel_metadata.h"

namespace longhaul::io {

namespace fs = std::filesystem;

// A folder that goes away with the test; in memory where there is such a place, since a dump syncs
// every file to the disk.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const fs::path memory = "/dev/shm";
    const fs::path top = ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path();
    std::string name = (top / "longhaul_dump_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

// Every byte of a row follows from its place, so nothing needs to be kept. Floats get any bits, NaN
// and infinities too: a dump copies bytes.
struct SimulatedTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> row_dims;
  std::string dims;

  int64_t row_bytes() const {
    int64_t bytes = dtype_size(dtype);
    for (const int64_t d : row_dims) bytes *= d;
    return bytes;
  }
  Shape shape(int64_t rows) const {
    std::vector<int64_t> all{rows};
    all.insert(all.end(), row_dims.begin(), row_dims.end());
    return Shape(std::span<const int64_t>(all));
  }
  void fill_row(int64_t sequence, int64_t position, char* out) const {
    uint64_t x = std::hash<std::string>{}(name) ^
                 static_cast<uint64_t>(sequence) * 0x9e3779b97f4a7c15u ^
                 static_cast<uint64_t>(position) * 0xbf58476d1ce4e5b9u;
    for (int64_t i = 0; i < row_bytes(); ++i) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      out[i] = static_cast<char>(x >> 56);
    }
  }
};

struct SimulatedRun {
  layout::LayoutKind kind = layout::LayoutKind::zigzag;
  int cp = 1;
  std::vector<std::vector<layout::SequenceExtent>> steps;
  std::vector<SimulatedTensor> tensors;
  std::vector<std::string> filters;

  DumpInfo info() const {
    DumpInfo i;
    i.version = "0.1.0";
    i.model = "simulated";
    i.config_json = R"({"model_type":"simulated","rms_norm_eps":1e-06})";
    i.grid.cp = cp;
    i.layout = std::string(layout::layout_name(kind));
    i.strategy = "allgather";
    i.backend = "reference";
    i.dtype = "f32";
    i.command = "longhaul run --model simulated";
    if (!steps.empty())
      for (size_t s = 0; s < steps[0].size(); ++s)
        i.prompts.push_back({fmt::format("prompt {}", s), steps[0][s].extend});
    return i;
  }

  // The rows of a rank in one step, in local order.
  std::vector<char> local_rows(const layout::BatchLayout& l, int rank,
                               const SimulatedTensor& t) const {
    std::vector<char> rows(static_cast<size_t>(l.num_tokens(rank) * t.row_bytes()));
    char* next = rows.data();
    for (const auto half : {layout::Half::prev, layout::Half::next})
      for (int s = 0; s < l.num_sequences(); ++s) {
        const layout::Block& block = l.block(rank, half, s);
        for (int64_t p = block.start; p < block.end(); ++p, next += t.row_bytes())
          t.fill_row(s, p, next);
      }
    return rows;
  }

  void feed(HdfDump& dump, int rank) const {
    for (const auto& step : steps) {
      const auto l = layout::BatchLayout::make(kind, cp, step);
      dump.begin_step(l, rank);
      for (const SimulatedTensor& t : tensors) {
        if (!dump.wants(t.name)) continue;
        const std::vector<char> rows = local_rows(l, rank, t);
        dump.write(t.name, {rows.data(), t.dtype, t.shape(l.num_tokens(rank))}, t.dims);
      }
      dump.end_step();
    }
  }

  std::vector<std::string> write_ranks(const fs::path& dir) const {
    std::vector<std::string> parts;
    for (int rank = 0; rank < cp; ++rank) {
      HdfDump dump(dir, rank, cp, filters, info());
      feed(dump, rank);
      parts.push_back(dump.close());
    }
    return parts;
  }

  void write(const fs::path& dir, bool force = false) const {
    prepare_dump_directory(dir, force);
    finalize_manifest(dir, info(), filters, write_ranks(dir));
  }

  DumpSequence extent(size_t sequence) const {
    DumpSequence e;
    for (const auto& step : steps) {
      if (step[sequence].extend == 0) continue;
      if (e.num_tokens == 0) e.first_position = step[sequence].prefix;
      e.num_tokens += step[sequence].extend;
    }
    return e;
  }

  // Nothing but /sequences/<index>/<name>, and every byte of it.
  void expect_merged(const fs::path& path) const {
    Hdf5File file = Hdf5File::open(path);
    EXPECT_EQ(file.list("/"), std::vector<std::string>{"sequences"});
    const size_t num_sequences = steps.empty() ? 0 : steps[0].size();
    EXPECT_EQ(num_sequences == 0 ? 0 : file.list("/sequences").size(), num_sequences);
    for (size_t s = 0; s < num_sequences; ++s) {
      const std::string group = fmt::format("/sequences/{}", s);
      const DumpSequence e = extent(s);
      EXPECT_EQ(file.open_group(group).int_attribute("num_tokens"), e.num_tokens);
      EXPECT_EQ(file.list(group).size(), e.num_tokens > 0 ? tensors.size() : 0);
      if (e.num_tokens == 0) continue;
      for (const SimulatedTensor& t : tensors) {
        Hdf5Dataset dataset = file.open_dataset(group + "/" + t.name);
        ASSERT_EQ(dataset.dtype(), t.dtype);
        ASSERT_EQ(dataset.shape(), t.shape(e.num_tokens));
        EXPECT_EQ(dataset.string_attribute("dims"), t.dims);
        std::vector<char> rows(static_cast<size_t>(e.num_tokens * t.row_bytes()));
        dataset.read_rows(0, e.num_tokens, rows.data());
        std::vector<char> expected(static_cast<size_t>(t.row_bytes()));
        for (int64_t row = 0; row < e.num_tokens; ++row) {
          t.fill_row(static_cast<int64_t>(s), e.first_position + row, expected.data());
          ASSERT_EQ(
              std::memcmp(expected.data(), rows.data() + row * t.row_bytes(), expected.size()), 0)
              << t.name << " sequence " << s << " row " << row;
        }
      }
    }
  }

  std::string describe() const {
    std::string text = fmt::format("{} cp {}:", layout::layout_name(kind), cp);
    for (const auto& step : steps) {
      for (const auto& s : step) text += fmt::format(" {}+{}", s.prefix, s.extend);
      text += " |";
    }
    return text;
  }
};

// The names and types of a small model; every dtype that a run writes.
inline std::vector<SimulatedTensor> small_model(int64_t width) {
  return {{"embedding", DType::f32, {width}, "t d"},
          {"layers.00.q", DType::bf16, {2, 8}, "t h d"},
          {"layers.00.k", DType::f64, {1, width}, "t h d"},
          {"layers.00.attention_lse", DType::f32, {2}, "t h"},
          {"layers.00.topk_ids", DType::i32, {3}, "t k"},
          {"logits", DType::bf16, {13}, "t v"}};
}

// Chunked prefill of random prompts, then generated tokens; ranks without tokens happen.
inline SimulatedRun random_run(std::mt19937_64& engine) {
  auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  SimulatedRun run;
  run.kind = static_cast<layout::LayoutKind>(between(0, 2));
  run.cp = static_cast<int>(between(1, 5));
  run.tensors = small_model(between(1, 40));
  std::vector<layout::SequenceExtent> state(static_cast<size_t>(between(1, 5)));
  for (auto& s : state) s.prefix = between(0, 2) == 0 ? between(1, 1000) : 0;
  const int64_t num_steps = between(1, 4);
  for (int64_t step = 0; step < num_steps; ++step) {
    const bool generate = step > 0 && between(0, 1) == 1;
    for (auto& s : state) {
      s.prefix += s.extend;
      s.extend = generate ? between(0, 1) : between(0, 7) == 0 ? 0 : between(1, 60);
    }
    run.steps.push_back(state);
  }
  return run;
}

// Runs `work`, which must throw an Error of that code whose one line holds all the parts.
inline void expect_error(ExitCode code, const std::vector<std::string>& parts,
                         const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error; expected " << static_cast<int>(code) << " about " << parts[0];
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << e.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << part << " in: " << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

}  // namespace longhaul::io
