#pragma once
// The rows of one tensor on their way into a rank's dump file: gathered to whole chunks, digested.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/io/dump_digest.h"
#include "runtime/io/hdf5_file.h"

namespace longhaul::io {

// Rows arrive in any portions. Whole chunks go straight to the file, the rest waits in memory (less
// than a chunk, about 1 MiB). A tensor that never fills a chunk becomes one small chunk.
class RowStream {
 public:
  // `row_shape` has a first dimension of any size; the others are a row's.
  RowStream(std::string path, DType dtype, const Shape& row_shape);

  const std::string& path() const { return path_; }
  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  Shape shape() const { return shape_of(rows_); }  // rows so far
  bool same_rows(DType dtype, const Shape& shape) const;
  int64_t buffered_bytes() const { return static_cast<int64_t>(tail_.size()); }
  std::string digest() const { return digest_.hex(); }

  void append(Hdf5File& file, const void* rows, int64_t count);
  void flush(Hdf5File& file);
  // Everything is in the file then; the dataset is given back for its attributes.
  Hdf5Dataset finish(Hdf5File& file);
  void abandon() noexcept { dataset_ = {}; }  // lets go of the file

 private:
  Shape shape_of(int64_t rows) const;
  void emit(Hdf5File& file, const void* rows, int64_t count);

  std::string path_;
  DType dtype_;
  Shape row_shape_;
  int64_t row_bytes_;
  int64_t chunk_rows_;
  int64_t rows_ = 0;
  std::vector<char> tail_;
  Digest digest_;
  Hdf5Dataset dataset_;
};

}  // namespace longhaul::io
