// Rows by index: embed and gather_rows.

#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;

// A row's bits where the index is outside: NaN of every float type.
template <class T>
__device__ T all_ones() {
  T x;
  memset(&x, 0xff, sizeof(T));
  return x;
}

template <class In, class Out>
__device__ Out converted(In x) {
  if constexpr (std::is_same_v<In, Out>)
    return x;
  else
    return from_float<Out>(to_float(x));
}

// Threads (x) share a row, `blockDim.y` rows are under way in a block.
template <int N, class In, class Out, class Index>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const In* x, int64_t x_rows, const Index* rows, Out* out, int64_t count,
                  int64_t n) {
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < count;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const auto row = static_cast<int64_t>(rows[r]);
    const bool there = row >= 0 && row < x_rows;
    const In* from = x + (there ? row : 0) * n;
    Out* to = out + r * n;
    const int64_t step = static_cast<int64_t>(blockDim.x) * N;
    for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < n; i += kUnroll * step) {
      Pack<In, N> v[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (there && i + u * step < n) v[u] = load<N>(from + i + u * step);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (i + u * step < n) {
          Pack<Out, N> y;
#pragma unroll
          for (int j = 0; j < N; ++j)
            y.at[j] = there ? converted<In, Out>(v[u].at[j]) : all_ones<Out>();
          store(to + i + u * step, y);
        }
    }
  }
}

template <class In, class Out, class Index>
void gather(const In* x, int64_t x_rows, const Index* rows, Out* out, int64_t count, int64_t n,
            cudaStream_t stream) {
  if (count == 0 || n == 0) return;
  constexpr int kPack = std::min(kVector<In>, kVector<Out>);
  const bool whole = aligned16(x) && aligned16(out) && n % kPack == 0;
  const int64_t packs = whole ? n / kPack : n;
  unsigned threads = 32;
  while (threads < kThreads && static_cast<int64_t>(threads) * kUnroll < packs) threads *= 2;
  const dim3 block(threads, kThreads / threads);
  const unsigned blocks = blocks_for(count, block.y);
  if (whole)
    gather_kernel<kPack><<<blocks, block, 0, stream>>>(x, x_rows, rows, out, count, n);
  else
    gather_kernel<1><<<blocks, block, 0, stream>>>(x, x_rows, rows, out, count, n);
  LH_CUDA_LAUNCH("gathering rows");
}

// Rows of one type on both sides are moved as integers of the widest size that their length allows.
template <class Index>
void gather_bytes(ConstTensorView x, const Index* rows, TensorView out, cudaStream_t stream) {
  const int64_t bytes = x.row_bytes();
  const auto move = [&](auto unit) {
    using T = decltype(unit);
    gather(static_cast<const T*>(x.data), x.rows(), rows, static_cast<T*>(out.data), out.rows(),
           bytes / static_cast<int64_t>(sizeof(T)), stream);
  };
  switch (dtype_size(x.dtype)) {
    case 8:
      return move(uint64_t{});
    case 4:
      return move(uint32_t{});
    case 2:
      return move(uint16_t{});
    default:
      return move(uint8_t{});
  }
}

}  // namespace

void embed(ConstTensorView table, ConstTensorView ids, TensorView out, cudaStream_t stream) {
  LH_CHECK(table.shape.rank() == 2 && ids.dtype == DType::i32 && ids.shape.rank() == 1 &&
               out.shape == Shape({ids.rows(), table.shape[1]}),
           "{} ids {} from {} {} to {} {}", dtype_name(ids.dtype), ids.shape.to_string(),
           dtype_name(table.dtype), table.shape.to_string(), dtype_name(out.dtype),
           out.shape.to_string());
  const auto* rows = static_cast<const int32_t*>(ids.data);
  with_float(table.dtype, [&](auto from) {
    with_float(out.dtype, [&](auto to) {
      using In = decltype(from);
      using Out = decltype(to);
      if constexpr (std::is_same_v<In, Out>)
        gather_bytes(table, rows, out, stream);
      else
        gather(static_cast<const In*>(table.data), table.rows(), rows, static_cast<Out*>(out.data),
               out.rows(), table.shape[1], stream);
    });
  });
}

void gather_rows(ConstTensorView x, ConstTensorView rows, TensorView out, cudaStream_t stream) {
  LH_CHECK(x.shape.rank() >= 1 && rows.dtype == DType::i64 && rows.shape.rank() == 1 &&
               out.dtype == x.dtype && out.shape.rank() >= 1 && out.rows() == rows.rows() &&
               out.shape.row_elements() == x.shape.row_elements(),
           "{} rows {} of {} {} to {} {}", dtype_name(rows.dtype), rows.shape.to_string(),
           dtype_name(x.dtype), x.shape.to_string(), dtype_name(out.dtype), out.shape.to_string());
  gather_bytes(x, static_cast<const int64_t*>(rows.data), out, stream);
}

}  // namespace longhaul::ops::cuda
