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
    : tile_dtype_(tile_dtype), dim_(dim), dim_v_(dim_v), products_(tile_dtype) {}

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
void TileWorker::load_keys(const AttentionArgs& a, const KeyList& keys, int64_t kv_head,
                           int64_t begin, int64_t count, int64_t columns, bool all_visible) {
  int64_t offset = 0;
  const KvSegment* s = &keys.find(begin, &offset);
  nonfinite_.clear();
  if constexpr (std::is_same_v<In, T>) {
    if (all_visible && count == columns && offset + count <= s->length) {
      k_ = static_cast<const T*>(s->k) + offset * s->k_stride + kv_head * dim_;
      v_ = static_cast<const T*>(s->v) + offset * s->v_stride + kv_head * dim_v_;
      k_stride_ = s->k_stride;
      v_stride_ = s->v_stride;
      return;
    }
  }
  (void)a;
  grow(keys_, kTileColumns * dim_, tile_dtype_);
  grow(values_, kTileColumns * dim_v_, tile_dtype_);
  T* k = keys_.as<T>();
  T* v = values_.as<T>();
  for (int64_t i = 0; i < count;) {
    s = &keys.find(begin + i, &offset);
    const int64_t n = std::min(count - i, s->length - offset);
    const In* k_from = static_cast<const In*>(s->k) + offset * s->k_stride + kv_head * dim_;
    const In* v_from = static_cast<const In*>(s->v) + offset * s->v_stride + kv_head * dim_v_;
    for (int64_t j = 0; j < n; ++j) {
      convert_row(k_from + j * s->k_stride, dim_, k + (i + j) * dim_);
      convert_row(v_from + j * s->v_stride, dim_v_, v + (i + j) * dim_v_);
    }
    i += n;
  }
  std::fill(k + count * dim_, k + columns * dim_, T{});
  std::fill(v + count * dim_v_, v + columns * dim_v_, T{});
  k_ = k;
  v_ = v;
  k_stride_ = dim_;
  v_stride_ = dim_v_;
  if (!all_visible) hide_nonfinite<T>(count);
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
void TileWorker::add_nonfinite(int64_t rows, int64_t group, int64_t columns,
                               const Running& running) {
  const auto* p = reinterpret_cast<const T*>(scores_.as<float>());
  const int64_t p_stride = columns * static_cast<int64_t>(sizeof(float) / sizeof(T));
  for (const Nonfinite& n : nonfinite_)
    for (int64_t r = 0; r < rows; ++r)
      if (n.key < in_tile_[static_cast<size_t>(r / group)])
        running.out[r * dim_v_ + n.column] += as_float(p[r * p_stride + n.key]) * n.value;
}

template <class In, class T>
void TileWorker::run_typed(const AttentionArgs& a, const Plan& plan, const Task& task,
                           const Running& running, const std::function<void()>* poll) {
  const WorkItem& w = a.items[static_cast<size_t>(task.item)];
  const KeyList& keys = plan.keys[static_cast<size_t>(w.sequence)];
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
  grow(scores_, padded * std::min(kTileColumns, padded_columns(task.key_end - task.key_begin)),
       DType::f32);
  for (int64_t begin = task.key_begin; begin < task.key_end; begin += kTileColumns) {
    if (poll != nullptr) (*poll)();
    const int64_t count = std::min(kTileColumns, task.key_end - begin);
    const int64_t columns = padded_columns(count);
    for (size_t t = 0; t < visible_.size(); ++t)
      in_tile_[t] = std::clamp<int64_t>(visible_[t] - begin, 0, count);
    load_keys<In, T>(a, keys, task.kv_head, begin, count, columns, in_tile_.front() == count);
    float* scores = scores_.as<float>();
    products_.scores(padded, columns, dim_, queries_.data(), k_, k_stride_, scores);
    const SoftmaxTile tile{scores,          rows,
                           columns,         group,
                           in_tile_.data(), static_cast<float>(std::abs(a.scale) * kLog2E),
                           running.top,     running.sum,
                           running.out,     dim_v_};
    if constexpr (std::is_same_v<T, bf16>)
      softmax_bf16(tile);
    else
      softmax_f32(tile);
    products_.accumulate(padded, columns, dim_v_, scores,
                         columns * static_cast<int64_t>(sizeof(float) / sizeof(T)), v_, v_stride_,
                         running.out);
    if (!nonfinite_.empty()) add_nonfinite<T>(rows, group, columns, running);
  }
}

void TileWorker::run(const AttentionArgs& a, const Plan& plan, const Task& task,
                     const Running* partial, const std::function<void()>* poll) {
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
  if (tile_dtype_ == DType::bf16)
    run_typed<bf16, bf16>(a, plan, task, running, poll);
  else if (a.q.dtype == DType::bf16)
    run_typed<bf16, float>(a, plan, task, running, poll);
  else
    run_typed<float, float>(a, plan, task, running, poll);
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
