#include "runtime/core/tensor.h"

#include <cstdlib>
#include <cstring>

namespace longhaul {

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims(), ", "));
}

namespace {
template <class View, class Byte>
View rows_of(const View& v, int64_t begin, int64_t count) {
  LH_CHECK(v.shape.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= v.rows(),
           "rows [{}, {}) of {}", begin, begin + count, v.shape.to_string());
  View out = v;
  out.data = static_cast<Byte*>(v.data) + begin * v.row_bytes();
  int64_t dims[Shape::kMaxRank];
  for (int i = 0; i < v.shape.rank(); ++i) dims[i] = v.shape[i];
  dims[0] = count;
  out.shape = Shape(std::span<const int64_t>(dims, static_cast<size_t>(v.shape.rank())));
  return out;
}
template <class View>
View reshape(const View& v, Shape shape) {
  LH_CHECK(shape.num_elements() == v.num_elements(), "{} as {}", v.shape.to_string(),
           shape.to_string());
  return {v.data, v.dtype, shape};
}
}  // namespace

ConstTensorView ConstTensorView::row_range(int64_t begin, int64_t count) const {
  return rows_of<ConstTensorView, const std::byte>(*this, begin, count);
}
TensorView TensorView::row_range(int64_t begin, int64_t count) const {
  return rows_of<TensorView, std::byte>(*this, begin, count);
}
ConstTensorView ConstTensorView::reshaped(Shape s) const {
  return reshape(*this, s);
}
TensorView TensorView::reshaped(Shape s) const {
  return reshape(*this, s);
}

struct Tensor::Storage {
  void* data;
  int64_t bytes;
  MemoryUse use;
  Storage(void* d, int64_t b, MemoryUse u) : data(d), bytes(b), use(u) {
    account_memory(use, bytes);
  }
  ~Storage() {
    account_memory(use, -bytes);
    std::free(data);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

Tensor::Tensor(DType dtype, Shape shape, MemoryUse use) {
  const int64_t bytes = shape.num_elements() * dtype_size(dtype);
  LH_CHECK(bytes >= 0, "shape {}", shape.to_string());
  const size_t rounded = (static_cast<size_t>(bytes) + 127) / 64 * 64;  // never zero
  void* data = std::aligned_alloc(64, rounded);
  if (data == nullptr)
    fail(ExitCode::resource,
         "out of memory: {:.1f} MiB asked for a tensor {} of {}; --chunk or more ranks need less",
         static_cast<double>(bytes) / 1048576.0, shape.to_string(), dtype_name(dtype));
  storage_ = std::make_shared<Storage>(data, bytes, use);
  view_ = {data, dtype, shape};
}

Tensor Tensor::zeros(DType dtype, Shape shape, MemoryUse use) {
  Tensor t(dtype, shape, use);
  std::memset(t.data(), 0, static_cast<size_t>(t.num_bytes()));
  return t;
}

}  // namespace longhaul
