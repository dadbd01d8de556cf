#pragma once
// What a dump, a merged file, any other HDF5 file of ours, or a checkpoint holds.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/core/tensor.h"

namespace longhaul::io {

// Over the finite elements; 0 where there are none.
class ElementStatistics {
 public:
  void add(ConstTensorView values);  // any dtype
  int64_t count() const { return finite_ + nan_ + inf_; }
  int64_t nan() const { return nan_; }
  int64_t inf() const { return inf_; }
  double min() const { return finite_ > 0 ? min_ : 0; }
  double max() const { return finite_ > 0 ? max_ : 0; }
  double mean() const;
  double rms() const;

 private:
  template <class T>
  void add_values(const T* values, int64_t count);

  int64_t finite_ = 0, nan_ = 0, inf_ = 0;
  double min_ = 0, max_ = 0, sum_ = 0;
  long double square_sum_ = 0;
};

struct InspectedTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string dims;        // annotation; empty when there is none
  std::vector<int> ranks;  // owners, of dumps
  std::string file;        // of checkpoints
  int64_t bytes = 0;
  std::optional<ElementStatistics> statistics;
};

struct Inspection {
  std::string kind;  // "dump", "merged", "dump-rank", "hdf5", "checkpoint"
  std::vector<std::pair<std::string, std::string>> facts;  // "model": "qwen3", ... for people
  std::vector<InspectedTensor> tensors;
  int64_t bytes = 0;  // of all tensors
};

// Statistics read every element, and check the digests of a dump on the way. Throws Error(usage)
// when the path is nothing of these, Error(mismatch) for an unfinished or incomplete dump,
// Error(corrupt) for damaged files.
Inspection inspect_path(const std::filesystem::path& path, bool statistics);

}  // namespace longhaul::io
