#pragma once
// Reads a dump back in natural token order, whatever the layout, the number of ranks and of steps:
// from the recorded index of every row, never from a guess.

#include <cstdint>
#include <filesystem>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/io/hdf5_file.h"
#include "runtime/io/manifest.h"

namespace longhaul::io {

class DumpReader {
 public:
  // Reads the manifest and checks that every rank file is there (else Error(mismatch)) and has its
  // size (else Error(corrupt)).
  explicit DumpReader(const std::filesystem::path& dir);

  const Manifest& manifest() const { return manifest_; }
  const std::filesystem::path& dir() const { return dir_; }

  // Every byte of every rank file against its digest, before HDF5 sees any. Error(corrupt).
  void verify_files() const;

  // Opens the rank files and reads their indexes. Throws Error(mismatch) when a rank file is
  // incomplete or when not every (sequence, position) is there exactly once: the first missing or
  // duplicate one is named.
  void load_index();

  // Rows [row, row + count) of a rank are the tokens from `position` on.
  struct Run {
    int64_t position = 0;
    int64_t count = 0;
    int64_t row = 0;
    int rank = 0;
  };
  // Of one sequence, by position, without gaps. After load_index().
  const std::vector<Run>& runs(int sequence) const { return runs_[static_cast<size_t>(sequence)]; }

  // The rank's dataset, checked against the manifest (Error(mismatch) with both shapes).
  Hdf5Dataset open_part(const DumpTensor& tensor, const DumpTensor::Part& part);

 private:
  void read_index(const DumpRankFile& file);
  void check_coverage(int sequence);

  std::filesystem::path dir_;
  Manifest manifest_;
  std::vector<Hdf5File> files_;         // by rank
  std::vector<std::vector<Run>> runs_;  // by sequence
};

// One tensor of a dump. Keeps at most cache_bytes (or two blocks) of rows in memory.
class DumpTensorReader {
 public:
  DumpTensorReader(DumpReader& dump, const DumpTensor& tensor,
                   int64_t cache_bytes = int64_t{256} << 20);

  // Every row against the recorded digests. Error(corrupt) names tensor and rank.
  void verify();
  // `count` rows of the sequence from `position` on (absolute), dense, into `out`.
  void read(int sequence, int64_t position, int64_t count, void* out);

 private:
  struct Part {
    Hdf5Dataset dataset;
    std::string digest;
    int64_t block_rows = 1;
  };
  struct Block {
    uint64_t key;
    std::vector<char> bytes;
  };
  const Block& block(int rank, int64_t index);

  DumpReader& dump_;
  std::string name_;
  int64_t row_bytes_;
  std::vector<Part> parts_;  // by rank; undefined where the rank has no rows
  std::list<Block> blocks_;  // the last used first
  std::unordered_map<uint64_t, std::list<Block>::iterator> found_;
  int64_t cached_bytes_ = 0;
  int64_t cache_bytes_;
};

}  // namespace longhaul::io
