#pragma once
// What the tests of the GPU operators share: random tensors on both sides, and comparison.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/core/tensor.h"

namespace longhaul::test {

using longhaul::cuda::DeviceTensor;

// Half a unit of the last place, relative.
constexpr double kRound32 = 0x1p-24, kRound16 = 0x1p-8;
inline double rounding(DType dtype) {
  return dtype == DType::f32 ? kRound32 : kRound16;
}

class GpuOps : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (longhaul::cuda::device_count(&why) == 0) GTEST_SKIP() << why;
    longhaul::cuda::open_device(0);
  }
  cudaStream_t stream() {
    if (stream_ == nullptr) stream_ = std::make_unique<longhaul::cuda::Stream>();
    return stream_->get();
  }

  // Values of the type, as doubles.
  std::vector<double> random_values(int64_t count, DType dtype, double scale = 1);
  DeviceTensor upload(const std::vector<double>& values, DType dtype, Shape shape);
  template <class T>
  DeviceTensor upload_as(const std::vector<T>& values, Shape shape) {
    DeviceTensor t(dtype_of<T>(), shape, "a test", MemoryUse::activations);
    if (!values.empty())
      LH_CUDA(cudaMemcpy(t.view().data, values.data(), values.size() * sizeof(T),
                         cudaMemcpyHostToDevice));
    LH_CUDA(cudaDeviceSynchronize());
    return t;
  }
  // Every byte 0xff: NaN of every type, -1 of integers.
  DeviceTensor poisoned(DType dtype, Shape shape) {
    DeviceTensor t(dtype, shape, "a test", MemoryUse::activations);
    if (t.num_bytes() > 0)
      LH_CUDA(cudaMemset(t.view().data, 0xff, static_cast<size_t>(t.num_bytes())));
    LH_CUDA(cudaDeviceSynchronize());  // our stream does not wait for that of the memset
    return t;
  }
  template <class T>
  std::vector<T> download_as(ConstTensorView t) {
    LH_CUDA(cudaStreamSynchronize(stream()));
    std::vector<T> values(static_cast<size_t>(t.num_elements()));
    if (!values.empty())
      LH_CUDA(cudaMemcpy(values.data(), t.data, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  std::vector<double> download(ConstTensorView t);

  std::mt19937_64 random_{7};
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

 private:
  std::unique_ptr<longhaul::cuda::Stream> stream_;
};

// The number as the type holds it.
inline double rounded(double value, DType dtype) {
  const auto f = static_cast<float>(value);
  return dtype == DType::f32 ? static_cast<double>(f) : static_cast<double>(bf16(f));
}

inline std::vector<double> GpuOps::random_values(int64_t count, DType dtype, double scale) {
  std::normal_distribution<double> normal(0, scale);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& v : values) v = rounded(normal(random_), dtype);
  return values;
}

inline DeviceTensor GpuOps::upload(const std::vector<double>& values, DType dtype, Shape shape) {
  if (dtype == DType::f32)
    return upload_as(std::vector<float>(values.begin(), values.end()), shape);
  std::vector<bf16> narrow;
  narrow.reserve(values.size());
  for (const double v : values) narrow.emplace_back(static_cast<float>(v));
  return upload_as(narrow, shape);
}

inline std::vector<double> GpuOps::download(ConstTensorView t) {
  std::vector<double> values;
  if (t.dtype == DType::f32) {
    const std::vector<float> raw = download_as<float>(t);
    values.assign(raw.begin(), raw.end());
  } else {
    for (const bf16 v : download_as<bf16>(t)) values.push_back(static_cast<double>(v));
  }
  return values;
}

// |got - want| <= bound(i) everywhere; NaN is never right.
template <class F>
void expect_within(const std::vector<double>& got, const std::vector<double>& want, F&& bound,
                   const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  int64_t bad = 0;
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - want[i]) <= bound(i)) && ++bad <= 3)
      ADD_FAILURE() << what << ": element " << i << " is " << got[i] << ", not " << want[i]
                    << " +- " << bound(i);
  EXPECT_EQ(bad, 0) << what << ", of " << got.size();
}

}  // namespace longhaul::test
