#include "runtime/ops/cuda/qkv.h"
#include "runtime/ops/cuda/vector.cuh"

namespace longhaul::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 3;  // of a multiprocessor: bounds the registers of a thread
constexpr int kPasses = 2;  // heads that a lane has under way at once

template <class T>
struct Params {
  const T* qkv;
  int64_t rows, columns;
  int num_heads, num_kv_heads, half;  // half of head_dim
  int v_size;                         // elements of a row's values
  int64_t q_column, k_column, v_column;
  const T *q_norm, *k_norm;
  double eps;
  const float *cos, *sin;
  T *q, *k_out, *v_out;
  T* base[QkvArgs::kMaxDestinations];
  const int64_t* place[QkvArgs::kMaxDestinations];
  int num_destinations;
  int64_t stride;
  int v_heads;  // pieces in which the values are copied, each by the lanes of a head
  int chunks;   // of a row; a warp takes one
};

enum class Part { q, k, v, none };

// Normed (rounded to T, as a CPU does) and rotated. All lanes of a warp call it together.
template <int lanes, class T, int N>
__device__ void finish_head(const Params<T>& a, Part part, bool active, int column,
                            const float (&cos)[N], const float (&sin)[N], Pack<T, N>& low,
                            Pack<T, N>& high) {
  float x[N], y[N];
  unpack(low, x);
  unpack(high, y);
  if (a.q_norm != nullptr || a.k_norm != nullptr) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(y[i], y[i], fmaf(x[i], x[i], sum));
    sum = group_sum<lanes>(active ? sum : 0.F);
    const T* weight = part == Part::q ? a.q_norm : part == Part::k ? a.k_norm : nullptr;
    if (weight != nullptr && active) {
      const float scale = rms_scale<T>(sum, 2 * a.half, a.eps);
      float w[N];
      unpack(load<N>(weight + column), w);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = x[i] * scale * w[i];
      unpack(load<N>(weight + a.half + column), w);
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = y[i] * scale * w[i];
      low = pack<T>(x);
      high = pack<T>(y);
      unpack(low, x);
      unpack(high, y);
    }
  }
  if (a.cos == nullptr || !active) return;
  float r[N], t[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    r[i] = fmaf(-y[i], sin[i], __fmul_rn(x[i], cos[i]));
    t[i] = fmaf(x[i], sin[i], __fmul_rn(y[i], cos[i]));
  }
  low = pack<T>(r);
  high = pack<T>(t);
}

// The angles of a row for N pairs from `column` on.
template <class T, int N>
__device__ void load_angles(const Params<T>& a, int64_t row, int column, float (&cos)[N],
                            float (&sin)[N]) {
  if (a.cos == nullptr || column >= a.half) return;
  const int64_t at = row * a.half + column;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const Pack<float, 4> c = load<4>(a.cos + at + i), s = load<4>(a.sin + at + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      cos[i + j] = c.at[j];
      sin[i + j] = s.at[j];
    }
  }
}

// A warp's heads where all of them are queries.
template <int lanes, class T>
__device__ void finish_queries(const Params<T>& a, int64_t row, int first_head, int column) {
  constexpr int N = kVector<T>;
  constexpr int kHeads = 32 / lanes;
  const bool active = column < a.half;
  const int dim = 2 * a.half;
  const T* from = a.qkv + row * a.columns + a.q_column + first_head * dim + column;
  T* to = a.q + (row * a.num_heads + first_head) * dim + column;
  Pack<T, N> low[kPasses], high[kPasses];
  if (active) {
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      low[p] = load<N>(from + p * kHeads * dim);
      high[p] = load<N>(from + p * kHeads * dim + a.half);
    }
  }
  float cos[N], sin[N];
  load_angles(a, row, column, cos, sin);
#pragma unroll
  for (int p = 0; p < kPasses; ++p) {
    finish_head<lanes>(a, Part::q, active, column, cos, sin, low[p], high[p]);
    if (active) {
      store(to + p * kHeads * dim, low[p]);
      store(to + p * kHeads * dim + a.half, high[p]);
    }
  }
}

// A warp's heads of any part, one after another.
template <int lanes, class T>
__device__ void finish_parts(const Params<T>& a, int64_t row, int first_head, int column) {
  constexpr int N = kVector<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int dim = 2 * a.half, k_size = a.num_kv_heads * dim;
  const int64_t place = lane < a.num_destinations ? a.place[lane][row] : -1;
  float cos[N], sin[N];
  load_angles(a, row, column, cos, sin);
#pragma unroll 1
  for (int p = 0; p < kPasses; ++p) {
    int head = first_head + p * (32 / lanes);
    Part part = Part::q;
    const T* from = a.qkv + row * a.columns;
    T* plain = nullptr;
    int at = 0, in_row = 0;  // of the lane's first pack: in its part, in the packed row
    if (head < a.num_heads) {
      at = head * dim + column;
      from += a.q_column;
      plain = a.q + row * a.num_heads * dim;
    } else if (head -= a.num_heads; head < a.num_kv_heads) {
      part = Part::k;
      at = in_row = head * dim + column;
      from += a.k_column;
      if (a.k_out != nullptr) plain = a.k_out + row * k_size;
    } else {
      head -= a.num_kv_heads;
      part = head < a.v_heads ? Part::v : Part::none;
      at = head * 2 * lanes * N + column;
      in_row = k_size + at;
      from += a.v_column;
      if (a.v_out != nullptr) plain = a.v_out + row * a.v_size;
    }
    const bool turns = part == Part::q || part == Part::k;
    const int further = turns ? a.half : lanes * N;
    const bool has_low = turns ? column < a.half : part == Part::v && at < a.v_size;
    const bool has_high = turns ? has_low : part == Part::v && at + further < a.v_size;
    Pack<T, N> low, high;
    if (has_low) low = load<N>(from + at);
    if (has_high) high = load<N>(from + at + further);
    finish_head<lanes>(a, part, turns && has_low, column, cos, sin, low, high);
    if (plain != nullptr) {
      if (has_low) store(plain + at, low);
      if (has_high) store(plain + at + further, high);
    }
#pragma unroll 1
    for (int d = 0; d < a.num_destinations; ++d) {
      const int64_t to_row = __shfl_sync(0xffffffffU, place, d);
      if (part == Part::q || to_row < 0) continue;
      T* to = a.base[d] + to_row * a.stride + in_row;
      if (has_low) store(to, low);
      if (has_high) store(to + further, high);
    }
  }
}

// A head belongs to `lanes` neighbouring lanes, each with a 16-byte pack of its first half and the
// pack of the second half that rotates with it. A warp finishes kPasses * 32 / lanes heads of one
// row; its angles stay in registers. The values of a row are copied as if they were such heads.
template <int lanes, class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    finish_kernel(const __grid_constant__ Params<T> a) {
  constexpr int kChunk = kPasses * (32 / lanes);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Warps of a block share a row's chunks or work on neighbouring rows.
  const int64_t task = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int64_t row = task / a.chunks;
  if (row >= a.rows) return;
  const int first = static_cast<int>(task - row * a.chunks) * kChunk;
  const int head = first + lane / lanes, column = lane % lanes * kVector<T>;
  if (first + kChunk <= a.num_heads)
    finish_queries<lanes>(a, row, head, column);
  else
    finish_parts<lanes>(a, row, head, column);
}

// Any even head_dim, any alignment: a warp a head, element by element.
template <class T>
__global__ void __launch_bounds__(kThreads)
    any_finish_kernel(const __grid_constant__ Params<T> a, int head_dim_v) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int heads = a.num_heads + 2 * a.num_kv_heads;
  const int64_t tasks = a.rows * heads;
  for (int64_t task = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
       task < tasks; task += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const int64_t row = task / heads;
    int head = static_cast<int>(task - row * heads);
    const T* from = a.qkv + row * a.columns;
    const auto put = [&](Part part, int at, T value) {
      if (part == Part::q) {
        a.q[row * a.num_heads * 2 * a.half + at] = value;
        return;
      }
      T* plain = part == Part::k ? a.k_out : a.v_out;
      const int size = part == Part::k ? a.num_kv_heads * 2 * a.half : a.v_size;
      if (plain != nullptr) plain[row * size + at] = value;
      const int in_row = at + (part == Part::v ? a.num_kv_heads * 2 * a.half : 0);
      for (int d = 0; d < a.num_destinations; ++d) {
        const int64_t to_row = a.place[d][row];
        if (to_row >= 0) a.base[d][to_row * a.stride + in_row] = value;
      }
    };
    if (head >= a.num_heads + a.num_kv_heads) {
      head -= a.num_heads + a.num_kv_heads;
      for (int i = lane; i < head_dim_v; i += 32)
        put(Part::v, head * head_dim_v + i, from[a.v_column + head * head_dim_v + i]);
      continue;
    }
    const Part part = head < a.num_heads ? Part::q : Part::k;
    if (part == Part::k) head -= a.num_heads;
    const T* x = from + (part == Part::q ? a.q_column : a.k_column) + head * 2 * a.half;
    const T* weight = part == Part::q ? a.q_norm : a.k_norm;
    float scale = 1;
    if (weight != nullptr) {
      float sum = 0;
      for (int i = lane; i < 2 * a.half; i += 32) sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
      scale = rms_scale<T>(group_sum<32>(sum), 2 * a.half, a.eps);
    }
    for (int i = lane; i < a.half; i += 32) {
      T low = x[i], high = x[a.half + i];
      if (weight != nullptr) {
        low = from_float<T>(to_float(low) * scale * to_float(weight[i]));
        high = from_float<T>(to_float(high) * scale * to_float(weight[a.half + i]));
      }
      if (a.cos != nullptr) {
        const float c = a.cos[row * a.half + i], s = a.sin[row * a.half + i];
        const float u = to_float(low), v = to_float(high);
        low = from_float<T>(fmaf(-v, s, __fmul_rn(u, c)));
        high = from_float<T>(fmaf(u, s, __fmul_rn(v, c)));
      }
      put(part, head * 2 * a.half + i, low);
      put(part, head * 2 * a.half + a.half + i, high);
    }
  }
}

template <int lanes, class T>
void launch(Params<T>& p, cudaStream_t stream) {
  constexpr int kPiece = 2 * lanes * kVector<T>;
  constexpr int kChunk = kPasses * 32 / lanes;
  p.v_heads = (p.v_size + kPiece - 1) / kPiece;
  p.chunks = (p.num_heads + p.num_kv_heads + p.v_heads + kChunk - 1) / kChunk;
  finish_kernel<lanes><<<blocks_for(p.rows * p.chunks, kThreads / 32), kThreads, 0, stream>>>(p);
}

// Every access falls on 16 bytes.
template <class T>
bool whole_packs(const Params<T>& p) {
  constexpr int N = kVector<T>;
  bool whole = p.half % N == 0 && p.half <= 32 * N && p.v_size % N == 0 && p.columns % N == 0 &&
               p.q_column % N == 0 && p.k_column % N == 0 && p.v_column % N == 0 &&
               p.stride % N == 0;
  for (const void* x : {static_cast<const void*>(p.qkv), static_cast<const void*>(p.q_norm),
                        static_cast<const void*>(p.k_norm), static_cast<const void*>(p.cos),
                        static_cast<const void*>(p.sin), static_cast<const void*>(p.q),
                        static_cast<const void*>(p.k_out), static_cast<const void*>(p.v_out)})
    whole = whole && aligned16(x);
  for (int d = 0; d < p.num_destinations; ++d) whole = whole && aligned16(p.base[d]);
  return whole;
}

template <class T>
void finish(const QkvArgs& args, cudaStream_t stream) {
  const int64_t dim_v = args.head_dim_v == 0 ? args.head_dim : args.head_dim_v;
  Params<T> p{};
  p.qkv = static_cast<const T*>(args.qkv.data);
  p.rows = args.qkv.shape[0];
  p.columns = args.qkv.shape[1];
  p.num_heads = static_cast<int>(args.num_heads);
  p.num_kv_heads = static_cast<int>(args.num_kv_heads);
  p.half = static_cast<int>(args.head_dim / 2);
  p.v_size = static_cast<int>(args.num_kv_heads * dim_v);
  p.q_column = args.num_heads > 0 ? args.q_column : 0;
  p.k_column = args.num_kv_heads > 0 ? args.k_column : 0;
  p.v_column = args.num_kv_heads > 0 ? args.v_column : 0;
  p.q_norm = static_cast<const T*>(args.q_norm.data);
  p.k_norm = static_cast<const T*>(args.k_norm.data);
  p.eps = args.norm_eps;
  p.cos = static_cast<const float*>(args.cos.data);
  p.sin = static_cast<const float*>(args.sin.data);
  p.q = static_cast<T*>(args.q.data);
  p.k_out = static_cast<T*>(args.k_out.data);
  p.v_out = static_cast<T*>(args.v_out.data);
  p.num_destinations = args.num_kv_heads > 0 ? args.num_destinations : 0;
  for (int d = 0; d < p.num_destinations; ++d) {
    p.base[d] = static_cast<T*>(args.destinations[static_cast<size_t>(d)].base);
    p.place[d] = args.destinations[static_cast<size_t>(d)].row;
  }
  p.stride =
      args.kv_row_stride != 0 ? args.kv_row_stride : args.num_kv_heads * args.head_dim + p.v_size;
  if (p.rows == 0 || p.num_heads + p.num_kv_heads == 0) return;
  const int lanes = p.half / kVector<T>;
  if (!whole_packs(p)) {
    const int64_t heads = args.num_heads + 2 * args.num_kv_heads;
    any_finish_kernel<<<blocks_for(p.rows * heads, kThreads / 32), kThreads, 0, stream>>>(
        p, static_cast<int>(dim_v));
  } else if (lanes <= 2) {
    launch<2>(p, stream);
  } else if (lanes <= 4) {
    launch<4>(p, stream);
  } else if (lanes <= 8) {
    launch<8>(p, stream);
  } else if (lanes <= 16) {
    launch<16>(p, stream);
  } else {
    launch<32>(p, stream);
  }
  LH_CUDA_LAUNCH("finish_qkv");
}

void check(const QkvArgs& a) {
  const int64_t dim_v = a.head_dim_v == 0 ? a.head_dim : a.head_dim_v;
  LH_CHECK(a.qkv.shape.rank() == 2 && a.num_heads >= 0 && a.num_kv_heads >= 0 && a.head_dim > 0 &&
               a.head_dim % 2 == 0 && dim_v > 0,
           "qkv {}, {}/{} heads of {}/{}", a.qkv.shape.to_string(), a.num_heads, a.num_kv_heads,
           a.head_dim, dim_v);
  const int64_t rows = a.qkv.shape[0], columns = a.qkv.shape[1];
  const auto inside = [&](int64_t begin, int64_t count) {
    return count == 0 || (begin >= 0 && begin + count <= columns);
  };
  LH_CHECK(columns < (int64_t{1} << 31) && inside(a.q_column, a.num_heads * a.head_dim) &&
               inside(a.k_column, a.num_kv_heads * a.head_dim) &&
               inside(a.v_column, a.num_kv_heads * dim_v),
           "q at {}, k at {}, v at {} of {} columns; {}/{} heads of {}/{}", a.q_column, a.k_column,
           a.v_column, columns, a.num_heads, a.num_kv_heads, a.head_dim, dim_v);
  LH_CHECK((a.cos.data == nullptr) == (a.sin.data == nullptr), "cos without sin");
  const auto fits = [&](const char* name, ConstTensorView t, DType dtype, Shape shape) {
    LH_CHECK(t.data == nullptr || (t.dtype == dtype && t.shape == shape), "{} {} {} against {} {}",
             name, dtype_name(t.dtype), t.shape.to_string(), dtype_name(dtype), shape.to_string());
  };
  fits("cos", a.cos, DType::f32, {rows, a.head_dim / 2});
  fits("sin", a.sin, DType::f32, {rows, a.head_dim / 2});
  fits("q_norm", a.q_norm, a.qkv.dtype, {a.head_dim});
  fits("k_norm", a.k_norm, a.qkv.dtype, {a.head_dim});
  fits("k_out", a.k_out, a.qkv.dtype, {rows, a.num_kv_heads, a.head_dim});
  fits("v_out", a.v_out, a.qkv.dtype, {rows, a.num_kv_heads, dim_v});
  fits("q", a.q, a.qkv.dtype, {rows, a.num_heads, a.head_dim});
  LH_CHECK(a.num_heads == 0 || rows == 0 || a.q.data != nullptr, "no place for q");
  LH_CHECK(a.num_destinations >= 0 && a.num_destinations <= QkvArgs::kMaxDestinations,
           "{} destinations", a.num_destinations);
}

}  // namespace

void finish_qkv(const QkvArgs& args, cudaStream_t stream) {
  check(args);
  with_compute(args.qkv.dtype, [&](auto zero) { finish<decltype(zero)>(args, stream); });
}

}  // namespace longhaul::ops::cuda
