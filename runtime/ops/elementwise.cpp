#include "runtime/ops/elementwise.h"

#include <algorithm>
#include <cstring>

#include "runtime/ops/kernels.h"

namespace longhaul::ops {
namespace {

// Elements for which waking another thread pays (about ten microseconds of work).
constexpr int64_t kGrain = 32768;

int64_t rows_a_task(int64_t row_elements) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_elements));
}

}  // namespace

void rms_norm(ConstTensorView x, ConstTensorView weight, double eps, TensorView out,
              ThreadPool& pool) {
  LH_CHECK(x.shape.rank() >= 1 && x.shape == out.shape && x.dtype == out.dtype,
           "x {} {}, out {} {}", dtype_name(x.dtype), x.shape.to_string(), dtype_name(out.dtype),
           out.shape.to_string());
  const int64_t n = x.shape[x.shape.rank() - 1];
  LH_CHECK(weight.dtype == x.dtype && weight.shape == Shape({n}), "weight {} {} for rows of {} {}",
           dtype_name(weight.dtype), weight.shape.to_string(), n, dtype_name(x.dtype));
  if (x.num_elements() == 0) return;
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    pool.parallel_ranges(x.num_elements() / n, rows_a_task(n), [&](int64_t begin, int64_t end) {
      kernels::rms_norm(x.as<T>() + begin * n, weight.as<T>(), eps, out.as<T>() + begin * n,
                        end - begin, n);
    });
  });
}

void add(TensorView x, ConstTensorView y, ThreadPool& pool) {
  LH_CHECK(x.shape == y.shape && x.dtype == y.dtype, "{} {} + {} {}", dtype_name(x.dtype),
           x.shape.to_string(), dtype_name(y.dtype), y.shape.to_string());
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    pool.parallel_ranges(x.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
      kernels::add(x.as<T>() + begin, y.as<T>() + begin, end - begin);
    });
  });
}

void swiglu(ConstTensorView gate_up, TensorView out, ThreadPool& pool) {
  LH_CHECK(gate_up.shape.rank() == 2 && out.shape.rank() == 2 && gate_up.dtype == out.dtype &&
               gate_up.shape[0] == out.shape[0] && gate_up.shape[1] == 2 * out.shape[1],
           "gate and up {} {}, out {} {}", dtype_name(gate_up.dtype), gate_up.shape.to_string(),
           dtype_name(out.dtype), out.shape.to_string());
  const int64_t n = out.shape[1];
  dispatch_float(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    pool.parallel_ranges(out.shape[0], rows_a_task(n), [&](int64_t begin, int64_t end) {
      kernels::swiglu(gate_up.as<T>() + begin * 2 * n, out.as<T>() + begin * n, end - begin, n);
    });
  });
}

void embed(ConstTensorView table, std::span<const int32_t> ids, TensorView out, ThreadPool& pool) {
  const auto rows = static_cast<int64_t>(ids.size());
  LH_CHECK(table.shape.rank() == 2 && out.shape == Shape({rows, table.shape[1]}),
           "{} ids from {} {} to {} {}", rows, dtype_name(table.dtype), table.shape.to_string(),
           dtype_name(out.dtype), out.shape.to_string());
  pool.parallel_ranges(rows, rows_a_task(table.shape[1]), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      LH_CHECK(id >= 0 && id < table.shape[0], "id {} of {}", id, table.shape[0]);
      convert(table.row_range(id, 1), out.row_range(i, 1));
    }
  });
}

void copy_columns(ConstTensorView x, int64_t begin, int64_t count, TensorView out,
                  ThreadPool& pool) {
  LH_CHECK(x.shape.rank() == 2 && x.dtype == out.dtype && begin >= 0 && count >= 0 &&
               begin + count <= x.shape[1] && out.num_elements() == x.shape[0] * count,
           "columns {} + {} of {} {} to {} {}", begin, count, dtype_name(x.dtype),
           x.shape.to_string(), dtype_name(out.dtype), out.shape.to_string());
  const int64_t size = dtype_size(x.dtype);
  const int64_t from_stride = x.shape[1] * size, to_stride = count * size;
  if (to_stride == 0) return;
  const auto* from = static_cast<const std::byte*>(x.data) + begin * size;
  auto* to = static_cast<std::byte*>(out.data);
  pool.parallel_ranges(x.shape[0], rows_a_task(count), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      std::memcpy(to + i * to_stride, from + i * from_stride, static_cast<size_t>(to_stride));
  });
}

}  // namespace longhaul::ops
