#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // loads in flight a thread

// out[i] = f(in[i]) by packs of N elements; a tail of fewer is done one by one.
template <int N, class In, class Out, class F>
__global__ void __launch_bounds__(kThreads) map_kernel(const In* in, Out* out, int64_t count, F f) {
  const int64_t packs = count / N;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kUnroll;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kThreads * kUnroll + threadIdx.x;
       base < packs; base += step) {
    Pack<In, N> x[kUnroll];
    Pack<Out, N> y[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (base + u * kThreads < packs) {
        x[u] = load<N>(in + (base + u * kThreads) * N);
        if constexpr (F::kReadsOut) y[u] = load<N>(out + (base + u * kThreads) * N);
      }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (base + u * kThreads < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) y[u].at[i] = f(x[u].at[i], y[u].at[i]);
        store(out + (base + u * kThreads) * N, y[u]);
      }
  }
  const int64_t tail = packs * N + threadIdx.x;
  if (blockIdx.x == 0 && tail < count) out[tail] = f(in[tail], out[tail]);
}

template <class In, class Out, class F>
void map(const In* in, Out* out, int64_t count, F f, cudaStream_t stream) {
  if (count == 0) return;
  constexpr int kPack = std::min(kVector<In>, kVector<Out>);
  constexpr int kBlock = kThreads * kUnroll;
  if (aligned16(in) && aligned16(out))
    map_kernel<kPack>
        <<<blocks_for(count / kPack + 1, kBlock), kThreads, 0, stream>>>(in, out, count, f);
  else
    map_kernel<1><<<blocks_for(count, kBlock), kThreads, 0, stream>>>(in, out, count, f);
  LH_CUDA_LAUNCH("an element-wise kernel");
}

template <class In, class Out>
struct Convert {
  static constexpr bool kReadsOut = false;
  __device__ Out operator()(In x, Out) const {
    if constexpr (std::is_same_v<In, double>) {
      // Through float32 a number would round twice: rounding the first step to odd keeps what the
      // second one needs to know about the lost digits.
      if constexpr (std::is_same_v<Out, float>) return __double2float_rn(x);
      float odd = __double2float_rz(x);
      if (static_cast<double>(odd) != x) odd = __uint_as_float(__float_as_uint(odd) | 1U);
      return from_float<Out>(odd);
    } else {
      return from_float<Out>(to_float(x));
    }
  }
};

template <class T>
struct Add {
  static constexpr bool kReadsOut = true;
  __device__ T operator()(T y, T x) const { return from_float<T>(to_float(x) + to_float(y)); }
};

template <class T>
__device__ T sigmoid_product(T gate_value, T up_value) {
  const float gate = to_float(gate_value), up = to_float(up_value);
  // sigmoid through exp(-|gate|), which can neither overflow nor lose a negative gate's digits.
  float e, sigmoid;
  if constexpr (std::is_same_v<T, float>) {
    e = expf(-fabsf(gate));
    sigmoid = __fdiv_rn(gate >= 0.F ? 1.F : e, 1.F + e);
  } else {
    e = __expf(-fabsf(gate));
    sigmoid = __fdividef(gate >= 0.F ? 1.F : e, 1.F + e);
  }
  return from_float<T>(gate * sigmoid * up);
}

// Rows are taken a few at a time, so that an index within them fits 32 bits and short rows fill a
// block.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(const T* gate_up, T* out, int64_t rows, int64_t n, int rows_a_block) {
  const auto packs = static_cast<uint32_t>(n / N);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_a_block; first < rows;
       first += static_cast<int64_t>(gridDim.x) * rows_a_block) {
    const auto count =
        static_cast<uint32_t>(min(static_cast<int64_t>(rows_a_block), rows - first)) * packs;
    constexpr int kTwo = 2;
    for (uint32_t i = threadIdx.x; i < count; i += kThreads * kTwo) {
      Pack<T, N> gate[kTwo], up[kTwo];
      T* to[kTwo];
#pragma unroll
      for (int u = 0; u < kTwo; ++u) {
        const uint32_t at = i + u * kThreads;
        if (at >= count) break;
        const uint32_t row = at / packs, column = (at - row * packs) * N;
        const T* from = gate_up + (first + row) * 2 * n + column;
        gate[u] = load<N>(from);
        up[u] = load<N>(from + n);
        to[u] = out + (first + row) * n + column;
      }
#pragma unroll
      for (int u = 0; u < kTwo; ++u) {
        if (i + u * kThreads >= count) break;
        Pack<T, N> y;
#pragma unroll
        for (int j = 0; j < N; ++j) y.at[j] = sigmoid_product(gate[u].at[j], up[u].at[j]);
        store(to[u], y);
      }
    }
  }
}

}  // namespace

void convert(ConstTensorView in, TensorView out, cudaStream_t stream) {
  LH_CHECK(in.shape == out.shape, "{} to {}", in.shape.to_string(), out.shape.to_string());
  const int64_t count = in.num_elements();
  if (in.dtype == out.dtype) {
    if (count > 0)
      LH_CUDA(cudaMemcpyAsync(out.data, in.data, static_cast<size_t>(in.num_bytes()),
                              cudaMemcpyDeviceToDevice, stream));
    return;
  }
  with_float(out.dtype, [&](auto to) {
    using Out = decltype(to);
    auto* y = static_cast<Out*>(out.data);
    if (in.dtype == DType::f64)
      return map(static_cast<const double*>(in.data), y, count, Convert<double, Out>{}, stream);
    with_float(in.dtype, [&](auto from) {
      using In = decltype(from);
      if constexpr (!std::is_same_v<In, Out>)
        map(static_cast<const In*>(in.data), y, count, Convert<In, Out>{}, stream);
    });
  });
}

void add(TensorView x, ConstTensorView y, cudaStream_t stream) {
  LH_CHECK(x.shape == y.shape && x.dtype == y.dtype, "{} {} + {} {}", dtype_name(x.dtype),
           x.shape.to_string(), dtype_name(y.dtype), y.shape.to_string());
  with_compute(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    map(static_cast<const T*>(y.data), static_cast<T*>(x.data), x.num_elements(), Add<T>{}, stream);
  });
}

void swiglu(ConstTensorView gate_up, TensorView out, cudaStream_t stream) {
  LH_CHECK(gate_up.shape.rank() == 2 && out.shape.rank() == 2 && gate_up.dtype == out.dtype &&
               gate_up.shape[0] == out.shape[0] && gate_up.shape[1] == 2 * out.shape[1],
           "gate and up {} {}, out {} {}", dtype_name(gate_up.dtype), gate_up.shape.to_string(),
           dtype_name(out.dtype), out.shape.to_string());
  const int64_t rows = out.shape[0], n = out.shape[1];
  LH_CHECK(n < (int64_t{1} << 30), "rows of {}", n);
  if (out.num_elements() == 0) return;
  with_compute(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* from = static_cast<const T*>(gate_up.data);
    auto* to = static_cast<T*>(out.data);
    const bool whole = aligned16(from) && aligned16(to) && n % kVector<T> == 0;
    // Enough rows for two turns of a block's threads.
    const int64_t packs = whole ? n / kVector<T> : n;
    const auto rows_a_block =
        static_cast<int>(std::min<int64_t>(rows, std::max<int64_t>(1, 4 * kThreads / packs)));
    const unsigned blocks = blocks_for(rows, rows_a_block);
    if (whole)
      swiglu_kernel<kVector<T>><<<blocks, kThreads, 0, stream>>>(from, to, rows, n, rows_a_block);
    else
      swiglu_kernel<1><<<blocks, kThreads, 0, stream>>>(from, to, rows, n, rows_a_block);
    LH_CUDA_LAUNCH("swiglu");
  });
}

}  // namespace longhaul::ops::cuda
