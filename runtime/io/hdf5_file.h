#pragma once
// HDF5 files through move-only handles: every return code is checked, and HDF5's own error stack
// ends up in our Error together with the file's and the object's name.
//
// Written: format of HDF5 1.10 (checksummed metadata), chunks of whole rows with fletcher32, no
// timestamps. bf16 and f16 are 16-bit HDF5 floats that h5py reads.
// Read: only what such files need. Soft and external links, external storage, virtual datasets and
// filters other than fletcher32, shuffle and deflate are refused, and sizes are checked against the
// file's before anybody allocates.
//
// Errors: Error(corrupt) reading; Error(resource) writing when the disk is full or a limit is hit,
// with the bytes written so far. Not thread-safe; different threads may take turns.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/progress.h"
#include "runtime/core/tensor.h"

namespace longhaul::io {

struct Hdf5FileState;

// What carries attributes: a file's root, a group or a dataset.
class Hdf5Object {
 public:
  Hdf5Object() = default;
  ~Hdf5Object();
  Hdf5Object(Hdf5Object&& other) noexcept;
  Hdf5Object& operator=(Hdf5Object&& other) noexcept;

  const std::string& name() const { return name_; }
  bool defined() const { return id_ >= 0; }

  void set_attribute(const std::string& key, std::string_view text);
  void set_attribute(const std::string& key, const char* text) {
    set_attribute(key, std::string_view(text));
  }
  void set_attribute(const std::string& key, int64_t value);
  void set_attribute(const std::string& key, double value);
  void set_attribute(const std::string& key, std::span<const int64_t> values);

  bool has_attribute(const std::string& key) const;
  // Throw Error(corrupt) when the attribute is missing or of another type.
  std::string string_attribute(const std::string& key) const;
  int64_t int_attribute(const std::string& key) const;

 protected:
  friend class Hdf5File;
  Hdf5Object(int64_t id, std::shared_ptr<Hdf5FileState> file, std::string name);
  void reset() noexcept;
  void write_attribute(const std::string& key, int64_t file_type, int64_t memory_type,
                       int64_t count, const void* values);

  int64_t id_ = -1;
  std::shared_ptr<Hdf5FileState> file_;
  std::string name_;
};

// Rows of one element type; the first dimension counts the rows.
class Hdf5Dataset : public Hdf5Object {
 public:
  Hdf5Dataset() = default;
  Hdf5Dataset(Hdf5Dataset&&) noexcept = default;
  Hdf5Dataset& operator=(Hdf5Dataset&&) noexcept = default;
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t rows() const { return shape_[0]; }
  int64_t row_bytes() const { return shape_.row_elements() * dtype_size(dtype_); }
  int64_t chunk_rows() const { return chunk_rows_; }  // 0: contiguous

  // Grows the dataset (it must be extendible); pointers are to dense rows.
  void append(const void* rows, int64_t count);
  void write_rows(int64_t first, int64_t count, const void* rows);
  void read_rows(int64_t first, int64_t count, void* rows) const;

 private:
  friend class Hdf5File;
  Hdf5Dataset(Hdf5Object object, DType dtype, Shape shape, int64_t chunk_rows)
      : Hdf5Object(std::move(object)), dtype_(dtype), shape_(shape), chunk_rows_(chunk_rows) {}
  int64_t select_rows(int64_t space, int64_t first, int64_t count) const;

  DType dtype_ = DType::f32;
  Shape shape_;
  int64_t chunk_rows_ = 0;
};

class Hdf5File {
 public:
  // A new file of mode 0640 (less the umask) at `path`; `shown` is the name for messages.
  static Hdf5File create(const std::filesystem::path& path, const std::string& shown);
  static Hdf5File open(const std::filesystem::path& path);

  Hdf5Object root();
  Hdf5Object create_group(const std::string& path);  // parents are made too
  Hdf5Object open_group(const std::string& path);
  // `shape` of at least one dimension. Extendible datasets grow along the first.
  Hdf5Dataset create_dataset(const std::string& path, DType dtype, const Shape& shape,
                             bool extendible);
  Hdf5Dataset open_dataset(const std::string& path);
  bool has(const std::string& path);  // a hard link of that name, all parents too
  std::vector<std::string> list(const std::string& group);  // names, sorted
  bool is_group(const std::string& path);

  int64_t bytes_written() const;
  // Flushes, syncs and closes; every object must be gone. `progress` gets ticks while the disk
  // works. The destructor closes without saying what went wrong.
  void close(Progress* progress = nullptr);

 private:
  explicit Hdf5File(std::shared_ptr<Hdf5FileState> state) : state_(std::move(state)) {}
  std::shared_ptr<Hdf5FileState> state_;
};

// Whole rows that make about a MiB, at least one.
int64_t hdf5_chunk_rows(int64_t row_bytes);
// "1.10.8", of the library that is linked.
std::string hdf5_library_version();

}  // namespace longhaul::io
