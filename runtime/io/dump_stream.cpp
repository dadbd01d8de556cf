#include "runtime/io/dump_stream.h"

#include <algorithm>
#include <utility>

namespace longhaul::io {

RowStream::RowStream(std::string path, DType dtype, const Shape& row_shape)
    : path_(std::move(path)),
      dtype_(dtype),
      row_shape_(row_shape),
      row_bytes_(row_shape.row_elements() * dtype_size(dtype)),
      chunk_rows_(hdf5_chunk_rows(row_bytes_)) {}

Shape RowStream::shape_of(int64_t rows) const {
  std::vector<int64_t> dims(row_shape_.dims().begin(), row_shape_.dims().end());
  dims[0] = rows;
  return Shape(std::span<const int64_t>(dims));
}

bool RowStream::same_rows(DType dtype, const Shape& shape) const {
  return dtype == dtype_ && shape.rank() == row_shape_.rank() &&
         std::equal(shape.dims().begin() + 1, shape.dims().end(), row_shape_.dims().begin() + 1);
}

void RowStream::emit(Hdf5File& file, const void* rows, int64_t count) {
  if (!dataset_.defined()) dataset_ = file.create_dataset(path_, dtype_, shape_of(0), true);
  dataset_.append(rows, count);
}

void RowStream::append(Hdf5File& file, const void* rows, int64_t count) {
  digest_.update(rows, count * row_bytes_);
  rows_ += count;
  const char* next = static_cast<const char*>(rows);
  while (count > 0) {
    const int64_t stored = dataset_.defined() ? dataset_.rows() : 0;
    const int64_t waiting = buffered_bytes() / row_bytes_;
    // Up to the next border of a chunk, so that no chunk is written twice.
    const int64_t room = chunk_rows_ - (stored + waiting) % chunk_rows_;
    if (waiting == 0 && count >= room) {
      const int64_t take = room + (count - room) / chunk_rows_ * chunk_rows_;
      emit(file, next, take);
      next += take * row_bytes_;
      count -= take;
      continue;
    }
    const int64_t take = std::min(room, count);
    tail_.insert(tail_.end(), next, next + take * row_bytes_);
    next += take * row_bytes_;
    count -= take;
    if (take == room) flush(file);
  }
}

void RowStream::flush(Hdf5File& file) {
  if (tail_.empty()) return;
  emit(file, tail_.data(), buffered_bytes() / row_bytes_);
  tail_ = {};
}

Hdf5Dataset RowStream::finish(Hdf5File& file) {
  if (!dataset_.defined()) {
    dataset_ = file.create_dataset(path_, dtype_, shape_of(rows_), rows_ == 0);
    dataset_.write_rows(0, rows_, tail_.data());
    tail_ = {};
  } else {
    flush(file);
  }
  LH_CHECK(dataset_.rows() == rows_, "{} of {} rows of {}", dataset_.rows(), rows_, path_);
  return std::move(dataset_);
}

}  // namespace longhaul::io
