#pragma once
// Dense row-major tensors in host memory: `Tensor` owns, `TensorView` and `ConstTensorView` do not.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"
#include "runtime/core/memory.h"

namespace longhaul {

// Up to four dimensions, int64_t each.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    LH_CHECK(dims.size() <= kMaxRank, "{} dimensions", dims.size());
    for (int64_t d : dims) dims_[static_cast<size_t>(rank_++)] = d;
  }
  explicit Shape(std::span<const int64_t> dims) {
    LH_CHECK(dims.size() <= kMaxRank, "{} dimensions", dims.size());
    for (int64_t d : dims) dims_[static_cast<size_t>(rank_++)] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  // Elements behind one index of the first dimension.
  int64_t row_elements() const {
    int64_t n = 1;
    for (int i = 1; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != o[i]) return false;
    return true;
  }
  std::string to_string() const;  // "[3, 8, 64]"

  static constexpr size_t kMaxRank = 4;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct ConstTensorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  template <class T>
  const T* as() const {
    LH_CHECK(dtype == dtype_of<T>(), "tensor of {}", dtype_name(dtype));
    return static_cast<const T*>(data);
  }
  int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t num_bytes() const { return num_elements() * dtype_size(dtype); }
  int64_t row_bytes() const { return shape.row_elements() * dtype_size(dtype); }
  ConstTensorView row_range(int64_t begin, int64_t count) const;  // rows [begin, begin + count)
  ConstTensorView reshaped(Shape new_shape) const;
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  template <class T>
  T* as() const {
    LH_CHECK(dtype == dtype_of<T>(), "tensor of {}", dtype_name(dtype));
    return static_cast<T*>(data);
  }
  int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t num_bytes() const { return num_elements() * dtype_size(dtype); }
  int64_t row_bytes() const { return shape.row_elements() * dtype_size(dtype); }
  TensorView row_range(int64_t begin, int64_t count) const;
  TensorView reshaped(Shape new_shape) const;
  operator ConstTensorView() const { return {data, dtype, shape}; }
};

// Owns 64-byte aligned memory, uninitialised. Move-only. Out of memory throws Error(resource) that
// says how much was asked for.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape, MemoryUse use = MemoryUse::activations);
  static Tensor zeros(DType dtype, Shape shape, MemoryUse use = MemoryUse::activations);

  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  int64_t rows() const { return view_.rows(); }
  int64_t num_elements() const { return view_.num_elements(); }
  int64_t num_bytes() const { return view_.num_bytes(); }
  void* data() { return view_.data; }
  const void* data() const { return view_.data; }
  template <class T>
  T* as() {
    return view_.as<T>();
  }
  template <class T>
  const T* as() const {
    return static_cast<ConstTensorView>(view_).as<T>();
  }
  TensorView view() { return view_; }
  ConstTensorView view() const { return view_; }
  operator TensorView() { return view_; }
  operator ConstTensorView() const { return view_; }

 private:
  struct Storage;
  std::shared_ptr<Storage> storage_;  // one owner; shared_ptr only for the incomplete type
  TensorView view_;

 public:
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor(Tensor&& o) noexcept : storage_(std::move(o.storage_)), view_(o.view_) { o.view_ = {}; }
  Tensor& operator=(Tensor&& o) noexcept {
    storage_ = std::move(o.storage_);
    view_ = o.view_;
    o.view_ = {};
    return *this;
  }
};

}  // namespace longhaul
