// Damaged, incomplete and hostile dumps end in one line and a documented code; none is taken for
// good.

#include <hdf5.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/io/dump_digest.h"
#include "runtime/io/dump_reader.h"
#include "runtime/io/inspect.h"
#include "tests/unit/dump/simulated_run.h"

namespace longhaul::io {
namespace {

class DamagedDump : public testing::Test {
 protected:
  DamagedDump() {
    run_.cp = 3;
    run_.tensors = small_model(4);
    run_.steps = {{{0, 19}, {0, 8}}, {{19, 1}, {8, 1}}};
    run_.write(dir());
  }
  fs::path dir() const { return folder_ / "dump"; }
  fs::path rank_file(int rank) const { return dir() / rank_file_name(rank); }
  fs::path merged() const { return folder_ / "merged.h5"; }
  void merge() { merge_dump(dir(), merged(), true); }
  void expect_refused(ExitCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] { merge(); });
    EXPECT_FALSE(fs::exists(merged()));
    // The dump only: no temporary file beside the output either.
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1);
  }

  static std::string bytes_of(const fs::path& path) { return read_small_file(path, 1 << 30); }
  static void overwrite(const fs::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  // Changes a rank file through plain HDF5, then makes sizes and digests right again, so that only
  // the checks behind them can find the change.
  void tamper(int rank, const std::function<void(hid_t file)>& change) {
    const hid_t file = H5Fopen(rank_file(rank).c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    ASSERT_GE(H5Fclose(file), 0);
    edit_manifest([&](nlohmann::json& m) {
      nlohmann::json& f = m["files"][static_cast<size_t>(rank)];
      f["bytes"] = fs::file_size(rank_file(rank));
      f["xxh3"] = digest_of_file(rank_file(rank));
    });
  }
  void edit_manifest(const std::function<void(nlohmann::json&)>& edit) {
    nlohmann::json m = nlohmann::json::parse(bytes_of(dir() / "manifest.json"));
    edit(m);
    m.erase("xxh3");
    m["xxh3"] = digest_of(m.dump(1));
    overwrite(dir() / "manifest.json", m.dump(1) + "\n");
  }
  static void write_element(hid_t file, const char* path, hid_t type, hsize_t index,
                            const void* value) {
    const hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset);
    const hsize_t one = 1;
    const hid_t memory = H5Screate_simple(1, &one, nullptr);
    ASSERT_GE(H5Sselect_hyperslab(space, H5S_SELECT_SET, &index, nullptr, &one, nullptr), 0);
    ASSERT_GE(H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, value), 0);
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(dataset);
  }
  static void remove(hid_t file, const char* path) {
    ASSERT_GE(H5Ldelete(file, path, H5P_DEFAULT), 0);
  }
  // A float32 dataset of two dimensions in the place of a removed one.
  static void replace(hid_t file, const char* path, hid_t type, std::vector<hsize_t> dims,
                      hid_t creation = H5P_DEFAULT) {
    remove(file, path);
    const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    H5Dclose(dataset);
    H5Sclose(space);
  }
  hsize_t rows_of(int rank) const {
    return static_cast<hsize_t>(read_manifest(dir()).files[static_cast<size_t>(rank)].rows);
  }

  TemporaryFolder folder_;
  SimulatedRun run_;
};

TEST_F(DamagedDump, UntouchedItMerges) {
  merge();
  run_.expect_merged(merged());
}

TEST_F(DamagedDump, NoManifest) {
  fs::remove(dir() / "manifest.json");
  expect_refused(ExitCode::mismatch, {"manifest.json"});
  expect_error(ExitCode::mismatch, {"manifest.json"}, [&] { inspect_path(dir(), false); });
}

TEST_F(DamagedDump, RankFileMissing) {
  fs::remove(rank_file(1));
  expect_refused(ExitCode::mismatch, {"rank_0001.h5", "rank 1"});
}

TEST_F(DamagedDump, RankFileNeverFinished) {
  fs::rename(rank_file(2), rank_file(2).string() + ".tmp");
  expect_refused(ExitCode::mismatch, {"rank_0002.h5", "interrupted"});
}

TEST_F(DamagedDump, RankFileTruncated) {
  for (const double share : {0.0, 0.3, 0.999}) {
    const std::string bytes = bytes_of(rank_file(1));
    fs::resize_file(rank_file(1),
                    static_cast<uintmax_t>(share * static_cast<double>(bytes.size())));
    expect_refused(ExitCode::corrupt, {"rank_0001.h5", "cut off"});
    overwrite(rank_file(1), bytes);
  }
}

TEST_F(DamagedDump, AnyFlippedByteOfARankFile) {
  std::mt19937_64 engine(3);
  const std::string good = bytes_of(rank_file(0));
  for (int i = 0; i < 500; ++i) {
    std::string bad = good;
    bad[engine() % bad.size()] ^= static_cast<char>(1 + engine() % 255);
    overwrite(rank_file(0), bad);
    expect_refused(ExitCode::corrupt, {"rank_0000.h5", "damaged"});
  }
}

// Whatever happens to the manifest: an error of code 3 or 4, or (white space only) the same result.
TEST_F(DamagedDump, AnyChangedByteOfTheManifest) {
  std::mt19937_64 engine(4);
  const std::string good = bytes_of(dir() / "manifest.json");
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    const size_t at = engine() % bad.size();
    bad[at] ^= static_cast<char>(1 + engine() % 255);
    if (std::isspace(static_cast<unsigned char>(good[at]))) continue;
    if (engine() % 4 == 0) bad.resize(engine() % bad.size());
    overwrite(dir() / "manifest.json", bad);
    expect_error(ExitCode::corrupt, {"manifest.json"}, [&] { read_manifest(dir()); });
  }
}

// The same with a right digest, so that every field's own checks are what is tested.
TEST_F(DamagedDump, SignedNonsenseInTheManifest) {
  using nlohmann::json;
  const std::string good = bytes_of(dir() / "manifest.json");
  auto refused = [&](const char* what, const std::function<void(json&)>& edit) {
    SCOPED_TRACE(what);
    overwrite(dir() / "manifest.json", good);
    edit_manifest(edit);
    expect_error(ExitCode::corrupt, {"manifest.json"}, [&] { read_manifest(dir()); });
  };
  refused("format", [](json& m) { m["format"] = "other"; });
  refused("version", [](json& m) { m["format_version"] = 2; });
  refused("no files", [](json& m) { m.erase("files"); });
  refused("fewer files", [](json& m) { m["files"].erase(2); });
  refused("path", [](json& m) { m["files"][0]["file"] = "../rank_0000.h5"; });
  refused("negative", [](json& m) { m["files"][0]["bytes"] = -1; });
  refused("fraction", [](json& m) { m["files"][0]["rows"] = 1.5; });
  refused("huge", [](json& m) { m["sequences"][0]["num_tokens"] = uint64_t{1} << 60; });
  refused("digest", [](json& m) { m["files"][0]["xxh3"] = "xyz"; });
  refused("dtype", [](json& m) { m["tensors"][0]["dtype"] = "f8"; });
  refused("name", [](json& m) { m["tensors"][0]["name"] = "../x"; });
  refused("twice", [](json& m) { m["tensors"][1] = m["tensors"][0]; });
  refused("rank", [](json& m) { m["tensors"][0]["ranks"][2]["rank"] = 9; });
  refused("order", [](json& m) { m["tensors"][0]["ranks"][1]["rank"] = 0; });
  refused("rows", [](json& m) { m["tensors"][0]["ranks"][1]["rows"] = 1; });
  refused("no dims", [](json& m) { m["tensors"][0]["shape"] = json::array(); });
  refused("five dims", [](json& m) { m["tensors"][0]["shape"] = {29, 1, 1, 1, 1}; });
  refused("bomb", [](json& m) {
    m["tensors"][0]["shape"] = {29, int64_t{1} << 40, int64_t{1} << 40};
  });
  refused("a text", [](json& m) { m["tensors"] = "none"; });
  refused("a list", [](json& m) { m["model"] = json::array(); });
}

TEST_F(DamagedDump, DuplicateAndMissingTokensAreNamed) {
  // Rank 0's first row is position 0 of sequence 0; zigzag gives it position 1 in the next row.
  const int64_t one = 1;
  tamper(0, [&](hid_t f) { write_element(f, "/index/position", H5T_NATIVE_INT64, 0, &one); });
  expect_refused(ExitCode::mismatch, {"position 0 of sequence 0"});
  const int64_t zero = 0;
  tamper(0, [&](hid_t f) {
    write_element(f, "/index/position", H5T_NATIVE_INT64, 0, &zero);
    write_element(f, "/index/position", H5T_NATIVE_INT64, 1, &zero);
  });
  expect_refused(ExitCode::mismatch, {"position 0 of sequence 0", "twice", "ranks 0 and 0"});
}

TEST_F(DamagedDump, IndexOutOfRange) {
  const int32_t far = 7;
  tamper(1, [&](hid_t f) { write_element(f, "/index/sequence", H5T_NATIVE_INT32, 2, &far); });
  expect_refused(ExitCode::mismatch, {"rank_0001.h5", "sequence 7"});
  const int32_t zero = 0;
  const int64_t behind = 20;
  tamper(1, [&](hid_t f) {
    write_element(f, "/index/sequence", H5T_NATIVE_INT32, 2, &zero);
    write_element(f, "/index/position", H5T_NATIVE_INT64, 2, &behind);
  });
  expect_refused(ExitCode::mismatch, {"position 20 of sequence 0"});
}

TEST_F(DamagedDump, TensorMissing) {
  tamper(1, [](hid_t f) { remove(f, "/tensors/embedding"); });
  expect_refused(ExitCode::mismatch, {"rank_0001.h5", "embedding", "missing"});
}

TEST_F(DamagedDump, TensorNotListedOnARankWithTokens) {
  edit_manifest([](nlohmann::json& m) {
    nlohmann::json& t = m["tensors"][0];
    t["shape"][0] = t["shape"][0].get<int64_t>() - t["ranks"][1]["rows"].get<int64_t>();
    t["ranks"].erase(1);
  });
  expect_refused(ExitCode::mismatch, {"embedding", "missing on rank 1"});
}

TEST_F(DamagedDump, OtherShapeOrDtype) {
  const hsize_t rows = rows_of(1);
  tamper(1, [&](hid_t f) { replace(f, "/tensors/embedding", H5T_IEEE_F32LE, {rows, 5}); });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "never written"});
  const auto write_all = [&](hid_t file, hid_t type, hsize_t width) {
    replace(file, "/tensors/embedding", type, {rows, width});
    const hid_t d = H5Dopen2(file, "/tensors/embedding", H5P_DEFAULT);
    const std::vector<double> zeros(static_cast<size_t>(rows * width));
    ASSERT_GE(H5Dwrite(d, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data()), 0);
    H5Dclose(d);
  };
  tamper(1, [&](hid_t f) { write_all(f, H5T_IEEE_F32LE, 5); });
  expect_refused(ExitCode::mismatch, {"rank_0001.h5", "embedding", ", 5]", ", 4]"});
  tamper(1, [&](hid_t f) { write_all(f, H5T_IEEE_F64LE, 4); });
  expect_refused(ExitCode::mismatch, {"rank_0001.h5", "embedding", "f64", "f32"});
  tamper(1, [&](hid_t f) { write_all(f, H5T_IEEE_F32BE, 4); });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "element type"});
  tamper(1, [&](hid_t f) { write_all(f, H5T_IEEE_F32LE, 4); });
  expect_refused(ExitCode::corrupt, {"embedding of rank 1", "damaged"});  // zeros are not the data
}

TEST_F(DamagedDump, RankFileNotComplete) {
  tamper(0, [](hid_t f) { ASSERT_GE(H5Adelete(f, "complete"), 0); });
  expect_refused(ExitCode::mismatch, {"rank_0000.h5", "not complete"});
}

TEST_F(DamagedDump, RankFilesExchanged) {
  const std::string zero = bytes_of(rank_file(0)), one = bytes_of(rank_file(1));
  overwrite(rank_file(0), one);
  overwrite(rank_file(1), zero);
  tamper(0, [](hid_t) {});
  tamper(1, [](hid_t) {});
  expect_refused(ExitCode::mismatch, {"rank_0000.h5", "written by rank 1"});
}

// ---- files that would make HDF5 read elsewhere, or allocate without end ----

TEST_F(DamagedDump, LinksOutOfTheFileAreNotFollowed) {
  const fs::path other = folder_.path() / "dump" / "other.h5";
  fs::copy_file(rank_file(1), other);
  tamper(1, [&](hid_t f) {
    remove(f, "/tensors/embedding");
    ASSERT_GE(H5Lcreate_external(other.c_str(), "/tensors/embedding", f, "/tensors/embedding",
                                 H5P_DEFAULT, H5P_DEFAULT),
              0);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "external link"});
  tamper(1, [&](hid_t f) {
    remove(f, "/tensors/embedding");
    ASSERT_GE(H5Lcreate_soft("/tensors/logits", f, "/tensors/embedding", H5P_DEFAULT, H5P_DEFAULT),
              0);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "soft or external link"});
}

TEST_F(DamagedDump, ExternalStorageIsNotRead) {
  const hsize_t rows = rows_of(1);
  tamper(1, [&](hid_t f) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    ASSERT_GE(H5Pset_external(creation, "/etc/passwd", 0, rows * 16), 0);
    replace(f, "/tensors/embedding", H5T_IEEE_F32LE, {rows, 4}, creation);
    H5Pclose(creation);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "another file"});
}

TEST_F(DamagedDump, VirtualDatasetsAreNotRead) {
  const hsize_t dims[2] = {rows_of(1), 4};
  tamper(1, [&](hid_t f) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    const hid_t space = H5Screate_simple(2, dims, nullptr);
    ASSERT_GE(H5Pset_virtual(creation, space, "rank_0000.h5", "/tensors/embedding", space), 0);
    replace(f, "/tensors/embedding", H5T_IEEE_F32LE, {dims[0], 4}, creation);
    H5Sclose(space);
    H5Pclose(creation);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "virtual"});
}

TEST_F(DamagedDump, UnknownFiltersAreRefused) {
  const hsize_t rows = rows_of(1);
  tamper(1, [&](hid_t f) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2] = {rows, 4};
    ASSERT_GE(H5Pset_chunk(creation, 2, chunk), 0);
    ASSERT_GE(H5Pset_filter(creation, 32015, H5Z_FLAG_OPTIONAL, 0, nullptr), 0);
    replace(f, "/tensors/embedding", H5T_IEEE_F32LE, {rows, 4}, creation);
    H5Pclose(creation);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "32015"});
}

TEST_F(DamagedDump, ShapesThatNeedMoreThanTheFileAreRefused) {
  tamper(1, [&](hid_t f) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2] = {1, 4};
    ASSERT_GE(H5Pset_chunk(creation, 2, chunk), 0);
    ASSERT_GE(H5Pset_deflate(creation, 1), 0);
    replace(f, "/tensors/embedding", H5T_IEEE_F32LE, {hsize_t{1} << 40, 4}, creation);
    H5Pclose(creation);
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "embedding", "more bytes than the file"});
}

TEST_F(DamagedDump, NotHdf5AtAll) {
  overwrite(rank_file(1), std::string(5000, 'x'));
  edit_manifest([&](nlohmann::json& m) {
    m["files"][1]["bytes"] = 5000;
    m["files"][1]["xxh3"] = digest_of_file(rank_file(1));
  });
  expect_refused(ExitCode::corrupt, {"rank_0001.h5", "H5Fopen"});
}

TEST_F(DamagedDump, MergeDoesNotReplaceFilesUnlessForced) {
  overwrite(merged(), "mine");
  expect_error(ExitCode::usage, {"merged.h5", "--force"},
               [&] { merge_dump(dir(), merged(), false); });
  EXPECT_EQ(bytes_of(merged()), "mine");
  merge();
  run_.expect_merged(merged());
}

TEST_F(DamagedDump, InspectFindsDamagedRows) {
  EXPECT_EQ(inspect_path(dir(), true).tensors.size(), run_.tensors.size());
  const float other = 3.0f;
  tamper(2, [&](hid_t f) {
    const hid_t d = H5Dopen2(f, "/tensors/embedding", H5P_DEFAULT);
    const hid_t space = H5Dget_space(d);
    const hsize_t at[2] = {1, 1}, one[2] = {1, 1};
    const hid_t memory = H5Screate_simple(2, one, nullptr);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, at, nullptr, one, nullptr);
    ASSERT_GE(H5Dwrite(d, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, &other), 0);
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(d);
  });
  expect_error(ExitCode::corrupt, {"embedding of rank 2", "damaged"},
               [&] { inspect_path(dir(), true); });
}

}  // namespace
}  // namespace longhaul::io
