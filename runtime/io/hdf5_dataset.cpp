#include <algorithm>
#include <utility>

#include "runtime/io/hdf5_file.h"
#include "runtime/io/hdf5_internal.h"

namespace longhaul::io {

using hdf5::check;
using hdf5::Handle;

namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int64_t kMaxAttributeBytes = int64_t{64} << 20;

constexpr DType kAllTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                               DType::i64, DType::i32, DType::u8};

Handle variable_string_type(const Hdf5FileState& file, const std::string& object) {
  Handle type(check(H5Tcopy(H5T_C_S1), file, object, "H5Tcopy"), H5Tclose);
  check(H5Tset_size(type.get(), H5T_VARIABLE), file, object, "H5Tset_size");
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), file, object, "H5Tset_cset");
  return type;
}

std::vector<hsize_t> to_hsize(const Shape& shape) {
  std::vector<hsize_t> dims;
  for (const int64_t d : shape.dims()) dims.push_back(static_cast<hsize_t>(d));
  return dims;
}

DType read_dtype(const Hdf5FileState& file, const std::string& path, hid_t dataset) {
  const Handle type(check(H5Dget_type(dataset), file, path, "H5Dget_type"), H5Tclose);
  for (const DType dtype : kAllTypes) {
    const Handle ours = hdf5::element_type(dtype, file);
    if (check(H5Tequal(type.get(), ours.get()), file, path, "H5Tequal") > 0) return dtype;
  }
  hdf5::refuse(file, path, "its element type is none of f64, f32, bf16, f16, i64, i32, u8");
}

// Throws unless the dimensions are few, positive behind the first, and their bytes fit the file.
Shape read_shape(const Hdf5FileState& file, const std::string& path, hid_t dataset, DType dtype) {
  const Handle space(check(H5Dget_space(dataset), file, path, "H5Dget_space"), H5Sclose);
  const int rank =
      check(H5Sget_simple_extent_ndims(space.get()), file, path, "H5Sget_simple_extent_ndims");
  if (rank < 1 || rank > static_cast<int>(Shape::kMaxRank))
    hdf5::refuse(file, path, fmt::format("it has {} dimensions", rank));
  std::vector<hsize_t> dims(static_cast<size_t>(rank));
  check(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), file, path,
        "H5Sget_simple_extent_dims");
  std::vector<int64_t> out;
  // No more than the file's bytes can be stored, times what deflate can shrink (about 1032).
  const auto limit = static_cast<uint64_t>(file.channel.size) * 1100 + 1024;
  uint64_t bytes = static_cast<uint64_t>(dtype_size(dtype));
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0 && i > 0) hdf5::refuse(file, path, "a dimension is 0");
    if (dims[i] != 0 && bytes > limit / dims[i])
      hdf5::refuse(file, path, "its shape needs more bytes than the file has");
    bytes *= std::max<hsize_t>(dims[i], 1);
    out.push_back(static_cast<int64_t>(dims[i]));
  }
  return Shape(std::span<const int64_t>(out));
}

// Refuses storage outside the file and unknown filters; returns whether anything compresses.
bool check_filters(const Hdf5FileState& file, const std::string& path, hid_t creation) {
  if (check(H5Pget_external_count(creation), file, path, "H5Pget_external_count") != 0)
    hdf5::refuse(file, path, "its data lie in another file, which is not opened");
  const int filters = check(H5Pget_nfilters(creation), file, path, "H5Pget_nfilters");
  bool compressed = false;
  for (int i = 0; i < filters; ++i) {
    size_t num_values = 0;
    unsigned flags = 0;
    unsigned config = 0;
    const H5Z_filter_t filter = check(H5Pget_filter2(creation, static_cast<unsigned>(i), &flags,
                                                     &num_values, nullptr, 0, nullptr, &config),
                                      file, path, "H5Pget_filter");
    if (filter != H5Z_FILTER_FLETCHER32 && filter != H5Z_FILTER_SHUFFLE &&
        filter != H5Z_FILTER_DEFLATE)
      hdf5::refuse(file, path,
                   fmt::format("filter {} is none of fletcher32, shuffle, deflate", filter));
    compressed |= filter == H5Z_FILTER_DEFLATE;
  }
  return compressed;
}

// Rows a chunk, 0 for contiguous data.
int64_t read_storage(const Hdf5FileState& file, const std::string& path, hid_t dataset,
                     const Shape& shape, DType dtype) {
  const Handle creation(check(H5Dget_create_plist(dataset), file, path, "H5Dget_create_plist"),
                        H5Pclose);
  const H5D_layout_t layout = check(H5Pget_layout(creation.get()), file, path, "H5Pget_layout");
  if (layout == H5D_VIRTUAL)
    hdf5::refuse(file, path, "a virtual dataset, which would open other files");
  const bool compressed = check_filters(file, path, creation.get());
  const auto bytes =
      static_cast<uint64_t>(shape.num_elements()) * static_cast<uint64_t>(dtype_size(dtype));
  if (!compressed && H5Dget_storage_size(dataset) < bytes)
    hdf5::refuse(file, path, "parts of it were never written");
  if (layout != H5D_CHUNKED) return 0;
  hsize_t chunk[Shape::kMaxRank] = {};
  check(H5Pget_chunk(creation.get(), shape.rank(), chunk), file, path, "H5Pget_chunk");
  uint64_t chunk_bytes = static_cast<uint64_t>(dtype_size(dtype));
  for (int i = 0; i < shape.rank(); ++i) {
    if (chunk[i] == 0 || chunk_bytes > (uint64_t{1} << 32) / chunk[i])
      hdf5::refuse(file, path, "its chunks are larger than 4 GiB");
    chunk_bytes *= chunk[i];
  }
  return static_cast<int64_t>(chunk[0]);
}

}  // namespace

int64_t hdf5_chunk_rows(int64_t row_bytes) {
  LH_CHECK(row_bytes > 0, "rows of {} bytes", row_bytes);
  return std::max<int64_t>(1, kChunkBytes / row_bytes);
}

// ---- attributes ----

Hdf5Object::Hdf5Object(int64_t id, std::shared_ptr<Hdf5FileState> file, std::string name)
    : id_(id), file_(std::move(file)), name_(std::move(name)) {}

Hdf5Object::~Hdf5Object() {
  reset();
}

void Hdf5Object::reset() noexcept {
  if (id_ >= 0) H5Oclose(id_);
  id_ = -1;
  file_.reset();
}

Hdf5Object::Hdf5Object(Hdf5Object&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      file_(std::move(other.file_)),
      name_(std::move(other.name_)) {}

Hdf5Object& Hdf5Object::operator=(Hdf5Object&& other) noexcept {
  if (this == &other) return *this;
  reset();
  id_ = std::exchange(other.id_, -1);
  file_ = std::move(other.file_);
  name_ = std::move(other.name_);
  return *this;
}

// count < 0 makes a scalar.
void Hdf5Object::write_attribute(const std::string& key, int64_t file_type, int64_t memory_type,
                                 int64_t count, const void* values) {
  hdf5::enter();
  const std::string object = name_ + " attribute " + key;
  const auto length = static_cast<hsize_t>(std::max<int64_t>(count, 0));
  const Handle space(
      check(count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &length, nullptr), *file_,
            object, "H5Screate"),
      H5Sclose);
  const Handle attribute(
      check(H5Acreate2(id_, key.c_str(), file_type, space.get(), H5P_DEFAULT, H5P_DEFAULT), *file_,
            object, "H5Acreate"),
      H5Aclose);
  if (count != 0) check(H5Awrite(attribute.get(), memory_type, values), *file_, object, "H5Awrite");
  hdf5::check_channel(*file_);
}

void Hdf5Object::set_attribute(const std::string& key, std::string_view text) {
  hdf5::enter();
  const Handle type = variable_string_type(*file_, name_);
  const std::string terminated(text);
  const char* pointer = terminated.c_str();
  write_attribute(key, type.get(), type.get(), -1, &pointer);
}

void Hdf5Object::set_attribute(const std::string& key, int64_t value) {
  hdf5::enter();
  write_attribute(key, H5T_STD_I64LE, H5T_NATIVE_INT64, -1, &value);
}

void Hdf5Object::set_attribute(const std::string& key, double value) {
  hdf5::enter();
  write_attribute(key, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, -1, &value);
}

void Hdf5Object::set_attribute(const std::string& key, std::span<const int64_t> values) {
  hdf5::enter();
  write_attribute(key, H5T_STD_I64LE, H5T_NATIVE_INT64, static_cast<int64_t>(values.size()),
                  values.data());
}

bool Hdf5Object::has_attribute(const std::string& key) const {
  hdf5::enter();
  return check(H5Aexists(id_, key.c_str()), *file_, name_, "H5Aexists") > 0;
}

namespace {

// Opens a scalar attribute of the class, or refuses.
Handle open_scalar(const Hdf5FileState& file, hid_t id, const std::string& object,
                   const std::string& key, H5T_class_t wanted) {
  if (check(H5Aexists(id, key.c_str()), file, object, "H5Aexists") == 0)
    hdf5::refuse(file, object, "attribute '" + key + "' is missing");
  Handle attribute(check(H5Aopen(id, key.c_str(), H5P_DEFAULT), file, object, "H5Aopen"), H5Aclose);
  const Handle space(check(H5Aget_space(attribute.get()), file, object, "H5Aget_space"), H5Sclose);
  const Handle type(check(H5Aget_type(attribute.get()), file, object, "H5Aget_type"), H5Tclose);
  if (H5Sget_simple_extent_npoints(space.get()) != 1 || H5Tget_class(type.get()) != wanted)
    hdf5::refuse(file, object, "attribute '" + key + "' is of another type");
  return attribute;
}

}  // namespace

std::string Hdf5Object::string_attribute(const std::string& key) const {
  hdf5::enter();
  const Handle attribute = open_scalar(*file_, id_, name_, key, H5T_STRING);
  const Handle type(check(H5Aget_type(attribute.get()), *file_, name_, "H5Aget_type"), H5Tclose);
  if (check(H5Tis_variable_str(type.get()), *file_, name_, "H5Tis_variable_str") == 0) {
    const size_t size = H5Tget_size(type.get());
    if (size == 0 || size > static_cast<size_t>(kMaxAttributeBytes))
      hdf5::refuse(*file_, name_, fmt::format("attribute '{}' has {} bytes", key, size));
    std::string text(size, '\0');
    check(H5Aread(attribute.get(), type.get(), text.data()), *file_, name_, "H5Aread");
    return text.substr(0, text.find('\0'));
  }
  char* pointer = nullptr;
  check(H5Aread(attribute.get(), type.get(), &pointer), *file_, name_, "H5Aread");
  if (pointer == nullptr) return {};
  std::string text(pointer);
  H5free_memory(pointer);
  return text;
}

int64_t Hdf5Object::int_attribute(const std::string& key) const {
  hdf5::enter();
  const Handle attribute = open_scalar(*file_, id_, name_, key, H5T_INTEGER);
  int64_t value = 0;
  check(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), *file_, name_, "H5Aread");
  return value;
}

// ---- datasets ----

Hdf5Dataset Hdf5File::create_dataset(const std::string& path, DType dtype, const Shape& shape,
                                     bool extendible) {
  hdf5::enter();
  LH_CHECK(shape.rank() >= 1, "dataset {} of no dimension", path);
  const Hdf5FileState& file = *state_;
  const int64_t row_bytes = shape.row_elements() * dtype_size(dtype);
  int64_t chunk_rows = hdf5_chunk_rows(row_bytes);
  if (!extendible) chunk_rows = std::max<int64_t>(1, std::min(chunk_rows, shape[0]));
  const std::vector<hsize_t> dims = to_hsize(shape);
  std::vector<hsize_t> most = dims;
  std::vector<hsize_t> chunk = dims;
  if (extendible || shape[0] == 0) most[0] = H5S_UNLIMITED;
  chunk[0] = static_cast<hsize_t>(chunk_rows);

  const Handle space(check(H5Screate_simple(shape.rank(), dims.data(), most.data()), file, path,
                           "H5Screate_simple"),
                     H5Sclose);
  const Handle links(check(H5Pcreate(H5P_LINK_CREATE), file, path, "H5Pcreate"), H5Pclose);
  check(H5Pset_create_intermediate_group(links.get(), 1), file, path,
        "H5Pset_create_intermediate_group");
  const Handle creation(check(H5Pcreate(H5P_DATASET_CREATE), file, path, "H5Pcreate"), H5Pclose);
  check(H5Pset_chunk(creation.get(), shape.rank(), chunk.data()), file, path, "H5Pset_chunk");
  check(H5Pset_fletcher32(creation.get()), file, path, "H5Pset_fletcher32");
  check(H5Pset_obj_track_times(creation.get(), false), file, path, "H5Pset_obj_track_times");
  // Callers write whole chunks, so a cache would only keep a MiB a dataset busy.
  const Handle access(check(H5Pcreate(H5P_DATASET_ACCESS), file, path, "H5Pcreate"), H5Pclose);
  check(H5Pset_chunk_cache(access.get(), 0, 0, 1), file, path, "H5Pset_chunk_cache");
  const Handle type = hdf5::element_type(dtype, file);
  Hdf5Object object(check(H5Dcreate2(file.id, path.c_str(), type.get(), space.get(), links.get(),
                                     creation.get(), access.get()),
                          file, path, "H5Dcreate"),
                    state_, path);
  hdf5::check_channel(file);
  return Hdf5Dataset(std::move(object), dtype, shape, chunk_rows);
}

Hdf5Dataset Hdf5File::open_dataset(const std::string& path) {
  hdf5::enter();
  const Hdf5FileState& file = *state_;
  if (!has(path)) hdf5::refuse(file, path, "there is no such dataset");
  Hdf5Object object(check(H5Oopen(file.id, path.c_str(), H5P_DEFAULT), file, path, "H5Oopen"),
                    state_, path);
  if (H5Iget_type(object.id_) != H5I_DATASET) hdf5::refuse(file, path, "it is no dataset");
  const DType dtype = read_dtype(file, path, object.id_);
  const Shape shape = read_shape(file, path, object.id_, dtype);
  const int64_t chunk_rows = read_storage(file, path, object.id_, shape, dtype);
  return Hdf5Dataset(std::move(object), dtype, shape, chunk_rows);
}

int64_t Hdf5Dataset::select_rows(int64_t space, int64_t first, int64_t count) const {
  LH_CHECK(first >= 0 && count >= 0 && first <= rows() - count, "rows {} + {} of {} in {}", first,
           count, rows(), name_);
  std::vector<hsize_t> start(static_cast<size_t>(shape_.rank()), 0);
  std::vector<hsize_t> extent = to_hsize(shape_);
  start[0] = static_cast<hsize_t>(first);
  extent[0] = static_cast<hsize_t>(count);
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr),
        *file_, name_, "H5Sselect_hyperslab");
  return check(H5Screate_simple(shape_.rank(), extent.data(), nullptr), *file_, name_,
               "H5Screate_simple");
}

void Hdf5Dataset::append(const void* rows_to_add, int64_t count) {
  hdf5::enter();
  const int64_t first = rows();
  std::vector<int64_t> dims(shape_.dims().begin(), shape_.dims().end());
  dims[0] += count;
  const Shape grown{std::span<const int64_t>(dims)};
  check(H5Dset_extent(id_, to_hsize(grown).data()), *file_, name_, "H5Dset_extent");
  shape_ = grown;
  write_rows(first, count, rows_to_add);
}

void Hdf5Dataset::write_rows(int64_t first, int64_t count, const void* rows_to_write) {
  hdf5::enter();
  if (count == 0) return;
  const Handle space(check(H5Dget_space(id_), *file_, name_, "H5Dget_space"), H5Sclose);
  const Handle memory(select_rows(space.get(), first, count), H5Sclose);
  const Handle type = hdf5::element_type(dtype_, *file_);
  check(H5Dwrite(id_, type.get(), memory.get(), space.get(), H5P_DEFAULT, rows_to_write), *file_,
        name_, "H5Dwrite");
  hdf5::check_channel(*file_);
}

void Hdf5Dataset::read_rows(int64_t first, int64_t count, void* out) const {
  hdf5::enter();
  if (count == 0) return;
  const Handle space(check(H5Dget_space(id_), *file_, name_, "H5Dget_space"), H5Sclose);
  const Handle memory(select_rows(space.get(), first, count), H5Sclose);
  const Handle type = hdf5::element_type(dtype_, *file_);
  check(H5Dread(id_, type.get(), memory.get(), space.get(), H5P_DEFAULT, out), *file_, name_,
        "H5Dread");
}

}  // namespace longhaul::io
