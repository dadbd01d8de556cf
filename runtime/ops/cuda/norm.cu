// rms_norm and add_rms_norm: a row is read once, kept in registers, and written once.

#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // of a multiprocessor: bounds the registers of a thread

template <class T>
struct NormArgs {
  T* x;  // not written unless delta is there
  const T* delta;
  const T* weight;
  T* out;
  int64_t rows, n;
  double eps;
};

// The sum over the `warps` neighbouring warps that share a row.
template <int warps>
__device__ float row_sum(float x, float (&shared)[kThreads / 32]) {
  x = group_sum<32>(x);
  if constexpr (warps > 1) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // a row before this one has been summed up by all
    if (threadIdx.x % 32 == 0) shared[warp] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int i = 0; i < warps; ++i) x += shared[warp / warps * warps + i];
  }
  return x;
}

// `warps` warps share a row of up to warps * 32 * packs 16-byte packs, of just as many if kFull.
template <int warps, int packs, bool kFull, bool kAdd, class T>
__global__ void __launch_bounds__(kThreads, packs > 4 ? 2 : kBlocks) norm_kernel(NormArgs<T> a) {
  constexpr int N = kVector<T>;
  constexpr int kLanes = warps * 32;
  constexpr int kRows = kThreads / kLanes;
  __shared__ float shared[kThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int row_packs = static_cast<int>(a.n / N);
  const auto step = static_cast<int64_t>(gridDim.x) * kRows;
  // All warps of a block take the same number of turns: they may meet at a barrier.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < a.rows; first += step) {
    const int64_t row = first + static_cast<int>(threadIdx.x) / kLanes;
    const bool there = row < a.rows;
    const auto has = [&](int p) { return there && (kFull || lane + p * kLanes < row_packs); };
    const int64_t begin = row * a.n + lane * N;
    T* x = a.x + begin;
    Pack<T, N> v[packs];
#pragma unroll
    for (int p = 0; p < packs; ++p)
      if (has(p)) v[p] = load<N>(x + p * kLanes * N);
    if constexpr (kAdd) {
      Pack<T, N> d[packs];
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (has(p)) d[p] = load<N>(a.delta + begin + p * kLanes * N);
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (has(p)) {
          float f[N], g[N];
          unpack(v[p], f);
          unpack(d[p], g);
#pragma unroll
          for (int i = 0; i < N; ++i) f[i] += g[i];
          v[p] = pack<T>(f);
          store(x + p * kLanes * N, v[p]);
        }
    }
    float sum = 0;
#pragma unroll
    for (int p = 0; p < packs; ++p)
      if (has(p)) {
        float f[N];
        unpack(v[p], f);
#pragma unroll
        for (int i = 0; i < N; ++i) sum = fmaf(f[i], f[i], sum);
      }
    const float scale = rms_scale<T>(row_sum<warps>(sum, shared), a.n, a.eps);
#pragma unroll
    for (int p = 0; p < packs; ++p)
      if (has(p)) {
        float f[N], w[N];
        unpack(v[p], f);
        unpack(load<N>(a.weight + (lane + p * kLanes) * N), w);
#pragma unroll
        for (int i = 0; i < N; ++i) f[i] = f[i] * scale * w[i];
        store(a.out + begin + p * kLanes * N, pack<T>(f));
      }
  }
}

// Any length, any alignment: a block a row, which is read twice.
template <bool kAdd, class T>
__global__ void __launch_bounds__(kThreads) any_norm_kernel(NormArgs<T> a) {
  __shared__ float shared[kThreads / 32];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    T* x = a.x + row * a.n;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < a.n; i += kThreads) {
      if constexpr (kAdd) x[i] = from_float<T>(to_float(x[i]) + to_float(a.delta[row * a.n + i]));
      const float f = to_float(x[i]);
      sum = fmaf(f, f, sum);
    }
    const float scale = rms_scale<T>(row_sum<kThreads / 32>(sum, shared), a.n, a.eps);
    T* out = a.out + row * a.n;
    for (int64_t i = threadIdx.x; i < a.n; i += kThreads)
      out[i] = from_float<T>(to_float(x[i]) * scale * to_float(a.weight[i]));
  }
}

template <int warps, int packs, bool kAdd, class T>
void launch(const NormArgs<T>& a, cudaStream_t stream) {
  const unsigned blocks = blocks_for(a.rows, kThreads / (warps * 32));
  if (a.n == warps * 32 * packs * kVector<T>)
    norm_kernel<warps, packs, true, kAdd><<<blocks, kThreads, 0, stream>>>(a);
  else
    norm_kernel<warps, packs, false, kAdd><<<blocks, kThreads, 0, stream>>>(a);
}

// The kernel depends on the row's length only (and on alignment), so that a row's bits do not
// depend on the other rows.
template <bool kAdd, class T>
void norm(const NormArgs<T>& a, cudaStream_t stream) {
  if (a.rows == 0 || a.n == 0) return;
  const int64_t packs = a.n / kVector<T>;
  const bool whole = a.n % kVector<T> == 0 && aligned16(a.x) && aligned16(a.out) &&
                     aligned16(a.weight) && (!kAdd || aligned16(a.delta));
  if (!whole || packs > 256 * 8)
    any_norm_kernel<kAdd><<<blocks_for(a.rows, 1), kThreads, 0, stream>>>(a);
  else if (packs <= 32)
    launch<1, 1, kAdd>(a, stream);
  else if (packs <= 32 * 4)
    launch<1, 4, kAdd>(a, stream);
  else if (packs <= 64 * 4)
    launch<2, 4, kAdd>(a, stream);
  else if (packs <= 128 * 3)
    launch<4, 3, kAdd>(a, stream);
  else if (packs <= 128 * 4)
    launch<4, 4, kAdd>(a, stream);
  else if (packs <= 256 * 3)
    launch<8, 3, kAdd>(a, stream);
  else if (packs <= 256 * 4)
    launch<8, 4, kAdd>(a, stream);
  else
    launch<8, 8, kAdd>(a, stream);
  LH_CUDA_LAUNCH("rms_norm");
}

void check(ConstTensorView x, ConstTensorView weight, ConstTensorView out) {
  LH_CHECK(x.shape.rank() >= 1 && x.shape == out.shape && x.dtype == out.dtype,
           "x {} {}, out {} {}", dtype_name(x.dtype), x.shape.to_string(), dtype_name(out.dtype),
           out.shape.to_string());
  const int64_t n = x.shape[x.shape.rank() - 1];
  LH_CHECK(weight.dtype == x.dtype && weight.shape == Shape({n}), "weight {} {} for rows of {} {}",
           dtype_name(weight.dtype), weight.shape.to_string(), n, dtype_name(x.dtype));
}

int64_t rows_of(ConstTensorView x) {
  const int64_t n = x.shape[x.shape.rank() - 1];
  return n == 0 ? 0 : x.num_elements() / n;
}

}  // namespace

void rms_norm(ConstTensorView x, ConstTensorView weight, double eps, TensorView out,
              cudaStream_t stream) {
  check(x, weight, out);
  with_compute(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    norm<false>(NormArgs<T>{const_cast<T*>(static_cast<const T*>(x.data)), nullptr,
                            static_cast<const T*>(weight.data), static_cast<T*>(out.data),
                            rows_of(x), weight.shape[0], eps},
                stream);
  });
}

void add_rms_norm(TensorView hidden, ConstTensorView delta, ConstTensorView weight, double eps,
                  TensorView out, cudaStream_t stream) {
  check(hidden, weight, out);
  LH_CHECK(delta.shape == hidden.shape && delta.dtype == hidden.dtype, "hidden {} {}, delta {} {}",
           dtype_name(hidden.dtype), hidden.shape.to_string(), dtype_name(delta.dtype),
           delta.shape.to_string());
  LH_CHECK(out.data != hidden.data || hidden.num_elements() == 0, "out is hidden");
  with_compute(hidden.dtype, [&](auto zero) {
    using T = decltype(zero);
    norm<true>(NormArgs<T>{static_cast<T*>(hidden.data), static_cast<const T*>(delta.data),
                           static_cast<const T*>(weight.data), static_cast<T*>(out.data),
                           rows_of(hidden), weight.shape[0], eps},
               stream);
  });
}

}  // namespace longhaul::ops::cuda
