// What ranks wrote comes back from the merged file byte for byte, in natural token order.

#include "tests/unit/dump/simulated_run.h"

namespace longhaul::io {
namespace {

TEST(DumpRoundTrip, RandomRunsComeBackExactly) {
  std::mt19937_64 engine(1);
  TemporaryFolder folder;
  for (int i = 0; i < 300 && !testing::Test::HasFailure(); ++i) {
    const SimulatedRun run = random_run(engine);
    SCOPED_TRACE(fmt::format("case {}: {}", i, run.describe()));
    run.write(folder / "dump", true);
    const MergeSummary merged = merge_dump(folder / "dump", folder / "merged.h5", true);
    EXPECT_EQ(merged.num_tensors, static_cast<int64_t>(run.tensors.size()));
    run.expect_merged(folder / "merged.h5");
  }
}

// Rows of a size that makes several chunks, with borders inside steps and steps inside chunks.
TEST(DumpRoundTrip, ChunkBordersFallAnywhere) {
  TemporaryFolder folder;
  SimulatedRun run;
  run.cp = 2;
  run.kind = layout::LayoutKind::balanced;
  run.tensors = {{"hidden", DType::f32, {16384}, "t d"}, {"wide", DType::bf16, {350001}, "t v"}};
  run.steps = {{{0, 17}, {5, 41}}, {{17, 33}, {46, 1}}, {{50, 1}, {47, 1}}, {{51, 1}, {48, 20}}};
  run.write(folder / "dump");
  merge_dump(folder / "dump", folder / "merged.h5", false);
  run.expect_merged(folder / "merged.h5");
}

TEST(DumpRoundTrip, MergedBytesDoNotDependOnTheWayOfSplitting) {
  TemporaryFolder folder;
  std::vector<std::string> digests;
  for (const int cp : {1, 3, 4}) {
    SimulatedRun run;
    run.cp = cp;
    run.tensors = small_model(11);
    run.steps = {{{0, 23}, {0, 7}}, {{23, 9}, {7, 1}}};
    const std::string name = fmt::format("dump{}", cp);
    run.write(folder / name);
    merge_dump(folder / name, folder / (name + ".h5"), false);
    Hdf5File file = Hdf5File::open(folder / (name + ".h5"));
    std::string all;
    for (const char* s : {"0", "1"})
      for (const SimulatedTensor& t : run.tensors)
        all +=
            file.open_dataset(fmt::format("/sequences/{}/{}", s, t.name)).string_attribute("xxh3");
    digests.push_back(all);
  }
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_EQ(digests[0], digests[2]);
}

TEST(DumpRoundTrip, SameDumpGivesTheSameFile) {
  TemporaryFolder folder;
  std::mt19937_64 engine(7);
  const SimulatedRun run = random_run(engine);
  run.write(folder / "dump");
  merge_dump(folder / "dump", folder / "a.h5", false);
  merge_dump(folder / "dump", folder / "b.h5", false);
  EXPECT_EQ(read_small_file(folder / "a.h5", 1 << 30), read_small_file(folder / "b.h5", 1 << 30));
}

TEST(DumpRoundTrip, FiltersPickNames) {
  TemporaryFolder folder;
  SimulatedRun run;
  run.cp = 2;
  run.tensors = small_model(4);
  run.steps = {{{0, 9}}};
  run.filters = {"layers.0[0-3].[qk]", "log*"};
  run.write(folder / "dump");
  merge_dump(folder / "dump", folder / "merged.h5", false);
  Hdf5File file = Hdf5File::open(folder / "merged.h5");
  EXPECT_EQ(file.list("/sequences/0"),
            (std::vector<std::string>{"layers.00.k", "layers.00.q", "logits"}));
}

TEST(DumpRoundTrip, StepsHoldTheListsOfBothHalves) {
  TemporaryFolder folder;
  SimulatedRun run;
  run.cp = 2;
  run.tensors = small_model(4);
  run.steps = {{{0, 9}, {0, 10}}, {{9, 1}, {10, 1}}};
  run.write(folder / "dump");
  for (int rank = 0; rank < 2; ++rank) {
    Hdf5File file = Hdf5File::open(folder.path() / "dump" / rank_file_name(rank));
    for (int64_t step = 0; step < 2; ++step) {
      const auto m = layout::make_metadata(
          layout::BatchLayout::make(run.kind, 2, run.steps[static_cast<size_t>(step)]), rank);
      auto row = [&](const std::string& name) {
        const Hdf5Dataset d = file.open_dataset("/steps/" + name);
        EXPECT_EQ(d.rows(), 2);
        std::vector<int64_t> values(static_cast<size_t>(d.shape().row_elements()));
        d.read_rows(step, 1, values.data());
        return values;
      };
      EXPECT_EQ(row("actual_seq_q_prev_list"), m.actual_seq_q_prev_list);
      EXPECT_EQ(row("kv_len_next_list"), m.kv_len_next_list);
      EXPECT_EQ(row("cu_seqlens_q_next"), m.cu_seqlens_q_next);
      EXPECT_EQ(row("split_list"), m.split_list);
      EXPECT_EQ(row("total_q_prev_tokens"), std::vector<int64_t>{m.total_q_prev_tokens});
    }
  }
}

}  // namespace
}  // namespace longhaul::io
