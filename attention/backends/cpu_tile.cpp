#include "attention/backends/cpu_tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/backends/cpu_softmax.h"

namespace longhaul::attention::cpu {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// Few distinct shapes, so that few kernels are generated: powers of two, then multiples of 16.
int64_t padded_rows(int64_t rows) {
  if (rows <= 16) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  return (rows + 15) / 16 * 16;
}

int64_t padded_columns(int64_t columns) {
  return (columns + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
}

template <class In, class T>
void convert_row(const In* from, int64_t n, T* to) {
  if constexpr (std::is_same_v<In, T>)
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  else
    widen(from, n, to);
}

float as_float(float v) {
  return v;
}
float as_float(bf16 v) {
  return static_cast<float>(v);
}
float negated(float v) {
  return -v;
}
bf16 negated(bf16 v) {
  v.bits ^= 0x8000u;
  return v;
}

}  // namespace

TileWorker::TileWorker(DType tile_dtype, int64_t dim, int64_t dim_v)
    : tile_dtype_(tile_dtype), dim_(dim), dim_v_(dim_v), products_(tile_dtype, dim, dim_v) {}

void TileWorker::grow(Tensor& tensor, int64_t elements, DType dtype) {
  if (!tensor.defined() || tensor.num_elements() < elements) {
    tensor = Tensor();
    tensor = Tensor(dtype, {elements});
  }
}

template <class In, class T>
void TileWorker::stack_queries(const AttentionArgs& a, const Task& task, int64_t padded) {
  const int64_t heads = a.q.shape[1];
  const int64_t group = heads / a.num_kv_heads;
  const WorkItem& w = a.items[static_cast<size_t>(task.item)];
  grow(queries_, padded * dim_, tile_dtype_);
  T* to = queries_.as<T>();
  for (int64_t t = task.token_begin; t < task.token_end; ++t, to += group * dim_)
    convert_row(a.q.as<In>() + ((w.q_row + t) * heads + task.kv_head * group) * dim_, group * dim_,
                to);
  std::fill(to, queries_.as<T>() + padded * dim_, T{});
  if (a.scale < 0)  // so that the largest score is the one that counts most
    for (T* p = queries_.as<T>(); p != to; ++p) *p = negated(*p);
}

template <class In, class T>
void TileWorker::gather(const KeyList& keys, int64_t kv_head, int64_t begin, int64_t count,
                        int64_t columns) {
  grow(keys_, kTileColumns * dim_, tile_dtype_);
  grow(values_, kTileColumns * dim_v_, tile_dtype_);
  T* k = keys_.as<T>();
  T* v = values_.as<T>();
  for (int64_t i = 0; i < count;) {
    int64_t offset = 0;
    const KvSegment& s = keys.find(begin + i, &offset);
    const int64_t n = std::min(count - i, s.length - offset);
    const In* k_from = static_cast<const In*>(s.k) + offset * s.k_stride + kv_head * dim_;
    const In* v_from = static_cast<const In*>(s.v) + offset * s.v_stride + kv_head * dim_v_;
    for (int64_t j = 0; j < n; ++j) {
      convert_row(k_from + j * s.k_stride, dim_, k + (i + j) * dim_);
      convert_row(v_from + j * s.v_stride, dim_v_, v + (i + j) * dim_v_);
    }
    i += n;
  }
  std::fill(k + count * dim_, k + columns * dim_, T{});
  std::fill(v + count * dim_v_, v + columns * dim_v_, T{});
}

// Calls f(In{}, T{}) with the types of the inputs and of the tiles.
template <class F>
void dispatch_tile(DType input, DType tile, F&& f) {
  if (tile == DType::bf16) return f(bf16{}, bf16{});
  if (input == DType::bf16) return f(bf16{}, float{});
  f(float{}, float{});
}

void TileWorker::pack(const Call& call, size_t sequence, int64_t kv_head, int64_t tile) {
  dispatch_tile(call.args.q.dtype, tile_dtype_, [&](auto in, auto t) {
    gather<decltype(in), decltype(t)>(call.plan.keys[sequence], kv_head, tile * kTileColumns,
                                      kTileColumns, kTileColumns);
  });
  std::byte* to = call.packed.tile(call.plan.packed, sequence, kv_head, tile);
  products_.pack_keys(keys_.data(), to);
  products_.pack_values(values_.data(), to + call.packed.key_bytes);
}

template <class T>
void TileWorker::hide_nonfinite(int64_t count) {
  T* v = values_.as<T>();
  if (!any_nonfinite(v, count * dim_v_)) return;
  for (int64_t i = 0; i < count * dim_v_; ++i)
    if (const float value = as_float(v[i]); !std::isfinite(value)) {
      nonfinite_.push_back({i / dim_v_, i % dim_v_, value});
      v[i] = T{};
    }
}

template <class T>
void TileWorker::add_nonfinite(const T* p, int64_t rows, int64_t group, int64_t columns,
                               const Running& running) {
  for (const Nonfinite& n : nonfinite_)
    for (int64_t r = 0; r < rows; ++r)
      if (n.key < in_tile_[static_cast<size_t>(r / group)])
        running.out[r * dim_v_ + n.column] += as_float(p[r * columns + n.key]) * n.value;
}

template <class In, class T>
void TileWorker::run_typed(const Call& call, const Task& task, const Running& running,
                           const std::function<void()>* poll) {
  const AttentionArgs& a = call.args;
  const WorkItem& w = a.items[static_cast<size_t>(task.item)];
  const auto sequence = static_cast<size_t>(w.sequence);
  const KeyList& keys = call.plan.keys[sequence];
  const int64_t group = a.q.shape[1] / a.num_kv_heads;
  const int64_t tokens = task.token_end - task.token_begin;
  const int64_t rows = tokens * group;
  const int64_t padded = padded_rows(rows);
  stack_queries<In, T>(a, task, padded);
  visible_.resize(static_cast<size_t>(tokens));
  in_tile_.resize(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t end = w.q_position + task.token_begin + t + 1;
    visible_[static_cast<size_t>(t)] =
        keys.count_below(a.causal ? std::min(end, w.kv_length) : w.kv_length);
  }
  const int64_t most_columns =
      std::min(kTileColumns, padded_columns(task.key_end - task.key_begin));
  grow(scores_, padded * most_columns, DType::f32);
  if (tile_dtype_ == DType::bf16) grow(weights_, padded * most_columns, DType::bf16);
  float* scores = scores_.as<float>();
  T* p = (tile_dtype_ == DType::bf16 ? weights_ : scores_).template as<T>();
  for (int64_t begin = task.key_begin; begin < task.key_end; begin += kTileColumns) {
    if (poll != nullptr) (*poll)();
    const int64_t count = std::min(kTileColumns, task.key_end - begin);
    const int64_t columns = padded_columns(count);
    for (size_t t = 0; t < visible_.size(); ++t)
      in_tile_[t] = std::clamp<int64_t>(visible_[t] - begin, 0, count);
    const bool all_visible = in_tile_.front() == count;
    nonfinite_.clear();
    Operand k, v;
    if (all_visible && count == kTileColumns &&
        begin / kTileColumns < call.plan.packed.count[sequence]) {
      const std::byte* tile =
          call.packed.tile(call.plan.packed, sequence, task.kv_head, begin / kTileColumns);
      k = {tile, true};
      v = {tile + call.packed.key_bytes, true};
    } else {
      gather<In, T>(keys, task.kv_head, begin, count, columns);
      if (!all_visible) hide_nonfinite<T>(count);
      k = {keys_.data(), false};
      v = {values_.data(), false};
    }
    products_.scores(padded, columns, queries_.data(), k, scores);
    const SoftmaxTile tile{scores,
                           p,
                           rows,
                           columns,
                           group,
                           in_tile_.data(),
                           static_cast<float>(std::abs(a.scale) * kLog2E),
                           running.top,
                           running.sum,
                           running.out,
                           dim_v_};
    if constexpr (std::is_same_v<T, bf16>)
      softmax_bf16(tile);
    else
      softmax_f32(tile);
    products_.accumulate(padded, columns, p, v, running.out);
    if (!nonfinite_.empty()) add_nonfinite(p, rows, group, columns, running);
  }
}

void TileWorker::run(const Call& call, const Task& task, const Running* partial,
                     const std::function<void()>* poll) {
  const AttentionArgs& a = call.args;
  const int64_t group = a.q.shape[1] / a.num_kv_heads;
  const int64_t rows = (task.token_end - task.token_begin) * group;
  const int64_t padded = padded_rows(rows);
  grow(out_, padded * dim_v_, DType::f32);
  grow(top_, padded, DType::f32);
  grow(sum_, padded, DType::f32);
  const Running running{out_.as<float>(), top_.as<float>(), sum_.as<float>()};
  std::fill_n(running.out, padded * dim_v_, 0.0f);
  std::fill_n(running.top, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(running.sum, rows, 0.0f);
  dispatch_tile(a.q.dtype, tile_dtype_, [&](auto in, auto t) {
    run_typed<decltype(in), decltype(t)>(call, task, running, poll);
  });
  if (partial == nullptr) return store_result(a, task, running);
  std::copy_n(running.out, rows * dim_v_, partial->out);
  std::copy_n(running.top, rows, partial->top);
  std::copy_n(running.sum, rows, partial->sum);
}

void store_result(const AttentionArgs& a, const Task& task, const Running& running) {
  const int64_t heads = a.q.shape[1];
  const int64_t group = heads / a.num_kv_heads;
  const int64_t dim_v = a.out.shape[2];
  const WorkItem& w = a.items[static_cast<size_t>(task.item)];
  int64_t r = 0;
  for (int64_t t = task.token_begin; t < task.token_end; ++t)
    for (int64_t g = 0; g < group; ++g, ++r) {
      const int64_t row = (w.q_row + t) * heads + task.kv_head * group + g;
      float* out = a.out.as<float>() + row * dim_v;
      float* lse = a.lse.as<float>() + row;
      const float sum = running.sum[r];
      if (sum == 0) {
        std::fill_n(out, dim_v, 0.0f);
        *lse = -std::numeric_limits<float>::infinity();
      } else {
        scale_to(running.out + r * dim_v, 1.0f / sum, dim_v, out);
        *lse = static_cast<float>(
            (static_cast<double>(running.top[r]) + std::log2(static_cast<double>(sum))) * kLn2);
      }
    }
}

}  // namespace longhaul::attention::cpu
