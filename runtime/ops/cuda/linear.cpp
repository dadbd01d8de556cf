#include "runtime/ops/cuda/linear.h"

#include <algorithm>
#include <bit>

#include "runtime/core/cuda/memory.h"
#include "runtime/ops/cuda/matmul.h"
#include "runtime/ops/cuda/random.h"

namespace longhaul::ops::cuda {
namespace {

struct Call {
  MatmulShape shape;
  MatmulData data;
  bool separate_bias = false;
};

const void* offset(const void* p, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(p) + elements * dtype_size(dtype);
}
void* offset(void* p, int64_t elements, DType dtype) {
  return static_cast<std::byte*>(p) + elements * dtype_size(dtype);
}

// The largest power of two up to 16 that divides all of the addresses and strides.
int alignment_of(const MatmulShape& s, const MatmulData& d) {
  uint64_t all = 16;
  for (const void* p : {d.x, d.weight, d.bias, static_cast<const void*>(d.out)})
    all |= static_cast<uint64_t>(reinterpret_cast<uintptr_t>(p));
  all |= static_cast<uint64_t>(s.depth * dtype_size(s.dtype));
  all |= static_cast<uint64_t>(s.out_stride * dtype_size(s.out_dtype));
  return 1 << std::countr_zero(all);
}

// The part of the layer that the options name.
Call make_call(ConstTensorView weight, ConstTensorView bias, int64_t rows, DType out_dtype,
               const LinearOptions& o) {
  const int64_t out_features = weight.shape[0];
  const int64_t features = o.num_features < 0 ? out_features - o.first_feature : o.num_features;
  LH_CHECK(o.first_feature >= 0 && features >= 0 && o.first_feature + features <= out_features,
           "features {} + {} of {}", o.first_feature, features, out_features);
  LH_CHECK(out_dtype == weight.dtype || out_dtype == DType::f32, "a layer of {} into {}",
           dtype_name(weight.dtype), dtype_name(out_dtype));
  LH_CHECK(o.out_row_stride == 0 || o.out_row_stride >= features, "rows of {} features {} apart",
           features, o.out_row_stride);
  Call call;
  call.shape.rows = rows;
  call.shape.features = features;
  call.shape.depth = weight.shape[1];
  call.shape.out_stride = o.out_row_stride == 0 ? features : o.out_row_stride;
  call.shape.dtype = weight.dtype;
  call.shape.out_dtype = out_dtype;
  call.shape.accumulate = o.accumulate;
  call.shape.deterministic = o.deterministic;
  call.data.weight = offset(weight.data, o.first_feature * call.shape.depth, weight.dtype);
  if (bias.data != nullptr) {
    call.data.bias = offset(bias.data, o.first_feature, bias.dtype);
    // The library wants a bias of the type of out.
    call.separate_bias = out_dtype != bias.dtype;
    call.shape.bias = !call.separate_bias;
  }
  return call;
}

}  // namespace

Linear::Linear(ConstTensorView weight, ConstTensorView bias, DType compute)
    : weight_(weight), bias_(bias) {
  LH_CHECK(compute == DType::f32 || compute == DType::bf16,
           "linear layers on a GPU compute in f32 or bf16, not {}", dtype_name(compute));
  LH_CHECK(weight.shape.rank() == 2 && weight.num_elements() > 0 && weight.dtype == compute &&
               weight.data != nullptr,
           "weight {} {} for a layer of {}", dtype_name(weight.dtype), weight.shape.to_string(),
           dtype_name(compute));
  LH_CHECK(
      bias.data == nullptr || (bias.dtype == compute && bias.shape == Shape({weight.shape[0]})),
      "bias {} {} for a weight {} {}", dtype_name(bias.dtype), bias.shape.to_string(),
      dtype_name(weight.dtype), weight.shape.to_string());
}

void Linear::apply(ConstTensorView x, TensorView out, cudaStream_t stream,
                   const LinearOptions& options) const {
  LH_CHECK(defined(), "a layer without weights");
  Call call = make_call(weight_, bias_, x.shape[0], out.dtype, options);
  MatmulShape& s = call.shape;
  LH_CHECK(x.dtype == weight_.dtype && x.shape.rank() == 2 && x.shape[1] == s.depth &&
               out.shape == Shape({s.rows, s.features}),
           "x {} {}, weight {} {}, features {}, out {}", dtype_name(x.dtype), x.shape.to_string(),
           dtype_name(weight_.dtype), weight_.shape.to_string(), s.features, out.shape.to_string());
  if (s.rows == 0 || s.features == 0) return;
  // Operands stay below 2^31 elements: not every kernel of the library counts further.
  const int64_t rows = s.rows;
  const int64_t widest = std::max(s.depth, s.out_stride);
  const int64_t most =
      std::max<int64_t>(256, std::min<int64_t>(65536, (int64_t{1} << 31) / widest) / 256 * 256);
  for (int64_t begin = 0; begin < rows; begin += most) {
    s.rows = std::min(most, rows - begin);
    call.data.x = offset(x.data, begin * s.depth, x.dtype);
    call.data.out = offset(out.data, begin * s.out_stride, out.dtype);
    s.alignment = alignment_of(s, call.data);
    matmul(s, call.data, stream);
    if (call.separate_bias)
      add_bias(static_cast<float*>(call.data.out), call.data.bias, s.rows, s.features, s.out_stride,
               stream);
  }
}

void Linear::prepare(int64_t rows, DType out_dtype, cudaStream_t stream,
                     const LinearOptions& options) const {
  LH_CHECK(defined(), "a layer without weights");
  Call call = make_call(weight_, bias_, rows, out_dtype, options);
  if (rows <= 0 || call.shape.features == 0) return;
  call.shape.alignment = alignment_of(call.shape, call.data);
  if (matmul_is_prepared(call.shape)) return;
  const int64_t class_rows = matmul_class_rows(rows);
  using longhaul::cuda::DeviceTensor;
  DeviceTensor x, out, other, count;
  try {
    const auto make = [](DType dtype, Shape shape) {
      return DeviceTensor(dtype, shape, "timing a matrix product", MemoryUse::activations);
    };
    x = make(weight_.dtype, {class_rows, call.shape.depth});
    out = make(out_dtype, {class_rows, call.shape.out_stride});
    if (options.deterministic) {
      other = make(out_dtype, {class_rows, call.shape.out_stride});
      count = make(DType::i32, {1});
    }
  } catch (const Error& e) {
    if (e.code() != ExitCode::resource) throw;
    return;
  }
  fill_random(x, 1, 0, 1, stream);
  fill_random(out, 2, 0, 1, stream);
  MatmulPreparation p;
  p.data = call.data;
  p.data.x = x.view().data;
  p.data.out = out.view().data;
  p.other_out = other.view().data;
  p.refill = [&](void* to) { fill_random({to, out_dtype, out.view().shape}, 2, 0, 1, stream); };
  p.same = [&] {
    uint32_t different = 0;
    void* on_device = count.view().data;
    LH_CUDA(cudaMemsetAsync(on_device, 0, sizeof(different), stream));
    count_different(out.view().data, other.view().data, out.num_bytes(),
                    static_cast<uint32_t*>(on_device), stream);
    LH_CUDA(
        cudaMemcpyAsync(&different, on_device, sizeof(different), cudaMemcpyDeviceToHost, stream));
    LH_CUDA(cudaStreamSynchronize(stream));
    return different == 0;
  };
  matmul_prepare(call.shape, p, stream);
}

}  // namespace longhaul::ops::cuda
