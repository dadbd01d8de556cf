#include "runtime/ops/linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "runtime/ops/elementwise.h"
#include "runtime/ops/kernels.h"
#include "runtime/ops/linear_f64.h"
#include "runtime/ops/onednn_product.h"
#include "runtime/ops/thread_scratch.h"

namespace longhaul::ops {
namespace {

// Row counts for which products are compiled. Rows are cut into these, largest first; the last few
// are padded with zero rows to the next size, so that any row count needs at most six kernels.
constexpr std::array<int64_t, 6> kRowSizes = {256, 64, 16, 8, 4, 1};
constexpr int64_t kRowTile = kRowSizes[0];
// Columns of one packed block: wide enough to run at full speed, narrow enough to give every thread
// some where there are few rows.
constexpr int64_t kColumnBlock = 256;
constexpr int64_t kLeastColumnBlock = 64;
// Below this much work a task costs more to hand out than to do. The estimate is that of a fast
// core: a wrong one costs microseconds, never the result.
constexpr double kLeastTaskSeconds = 15e-6;
constexpr double kFlopsASecond = 200e9;
constexpr double kWeightBytesASecond = 50e9;

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

int64_t column_block(int64_t out) {
  return std::clamp(round_up(out / 8, kLeastColumnBlock), kLeastColumnBlock, kColumnBlock);
}

}  // namespace

struct Linear::Impl {
  int64_t in, out;
  DType compute;
  Tensor bias;  // f64 or f32; undefined: none

  // f64
  Tensor panels;

  // f32, bf16: blocks of `block` columns, packed one by one at multiples of block_bytes.
  DType product_type = DType::f32;  // of the packed weights; f32 for bf16 on CPUs without bf16
  int64_t block = 0, num_blocks = 0, block_bytes = 0;
  Tensor packed;
  // Filled when first wanted. [row size][last column block][out in f32 though x is bf16]
  std::array<std::array<std::array<std::shared_ptr<const onednn::Product>, 2>, 2>, kRowSizes.size()>
      products;

  int64_t columns_of(int64_t b) const { return std::min(block, out - b * block); }
  const float* bias_of(int64_t b) const {
    return bias.defined() ? bias.as<float>() + b * block : nullptr;
  }

  void pack(ConstTensorView weight);
  const onednn::Product& product(size_t size, bool last, DType out_type);
  void prepare(int64_t rows, DType out_type);
  void multiply_rows(size_t size, int64_t row, int64_t count, int64_t b, ConstTensorView x,
                     TensorView y) const;
  void multiply_tile(int64_t row, int64_t count, int64_t b, ConstTensorView x, TensorView y) const;
};

void Linear::Impl::pack(ConstTensorView weight) {
  product_type = compute == DType::bf16 && onednn::has_bf16_dot() ? DType::bf16 : DType::f32;
  block = column_block(out);
  num_blocks = (out + block - 1) / block;
  block_bytes = round_up(onednn::packed_bytes(in, columns_of(0), product_type), 64);
  const int64_t last_bytes = onednn::packed_bytes(in, columns_of(num_blocks - 1), product_type);
  packed = Tensor(DType::u8, {(num_blocks - 1) * block_bytes + last_bytes}, MemoryUse::weights);
  // One block at a time is brought to the product's type (and to an aligned place). Weights are
  // those of the compute type on every CPU, so where bf16 is computed in f32 they round first.
  const bool round_first = product_type != compute && weight.dtype != compute;
  Tensor rows(product_type, {columns_of(0), in}), rounded;
  if (round_first) rounded = Tensor(compute, rows.shape());
  for (int64_t b = 0; b < num_blocks; ++b) {
    const ConstTensorView from = weight.row_range(b * block, columns_of(b));
    const TensorView to = rows.view().row_range(0, columns_of(b));
    if (round_first) {
      const TensorView between = rounded.view().row_range(0, columns_of(b));
      convert(from, between);
      convert(between, to);
    } else {
      convert(from, to);
    }
    onednn::pack(to.data, in, columns_of(b), product_type, packed.as<uint8_t>() + b * block_bytes);
  }
}

Linear::Linear(ConstTensorView weight, ConstTensorView bias, DType compute)
    : impl_(std::make_unique<Impl>()) {
  LH_CHECK(weight.shape.rank() == 2 && weight.num_elements() > 0, "weight {}",
           weight.shape.to_string());
  impl_->out = weight.shape[0];
  impl_->in = weight.shape[1];
  impl_->compute = compute;
  LH_CHECK(compute == DType::f64 || compute == DType::f32 || compute == DType::bf16,
           "linear layers compute in f64, f32 or bf16, not {}", dtype_name(compute));
  if (bias.data != nullptr) {
    LH_CHECK(bias.shape == Shape({impl_->out}), "bias {} for a weight {}", bias.shape.to_string(),
             weight.shape.to_string());
    impl_->bias = Tensor(accumulator_dtype(compute), {impl_->out}, MemoryUse::weights);
    convert(bias, impl_->bias);
  }
  if (compute == DType::f64)
    impl_->panels = f64::pack(weight);
  else
    impl_->pack(weight);
}

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

int64_t Linear::in_features() const {
  return impl_->in;
}
int64_t Linear::out_features() const {
  return impl_->out;
}

const onednn::Product& Linear::Impl::product(size_t size, bool last, DType out_type) {
  // Where bf16 is computed in f32 the product gives f32, rounded afterwards.
  const bool f32_out = product_type == DType::bf16 && out_type == DType::f32;
  auto& found = products[size][last ? 1 : 0][f32_out ? 1 : 0];
  if (found == nullptr)
    found =
        onednn::find_product({kRowSizes[size], in, columns_of(last ? num_blocks - 1 : 0),
                              product_type, f32_out ? DType::f32 : product_type, bias.defined()});
  return *found;
}

namespace {

// Calls f(size index, first row, rows) for the pieces of `rows` rows; only the last may have fewer
// rows than its size.
template <class F>
void for_each_piece(int64_t rows, F&& f) {
  int64_t row = 0;
  for (size_t s = 0; s < kRowSizes.size(); ++s) {
    for (; rows - row >= kRowSizes[s]; row += kRowSizes[s]) f(s, row, kRowSizes[s]);
    const bool pad = s > 0 && rows > row && kRowSizes[s] <= 16 &&
                     rows - row > kRowSizes[std::min(s + 1, kRowSizes.size() - 1)];
    if (!pad) continue;
    f(s, row, rows - row);
    return;
  }
}

}  // namespace

std::string Linear::kernel_name() const {
  LH_CHECK(defined());
  if (impl_->compute == DType::f64) return "double loops";
  return onednn::kernel_name(impl_->product(0, impl_->num_blocks == 1, impl_->compute));
}

bool Linear::row_count_independent() const {
  LH_CHECK(defined());
  if (impl_->compute == DType::f64) return true;
  for (size_t size = 0; size < kRowSizes.size(); ++size)
    for (const bool last : {false, true}) {
      const onednn::Product& p =
          impl_->product(size, last || impl_->num_blocks == 1, impl_->compute);
      if (std::string_view(onednn::kernel_name(p)).substr(0, 3) != "brg") return false;
    }
  return true;
}

void Linear::Impl::prepare(int64_t rows, DType out_type) {
  const auto want = [&](size_t size, int64_t, int64_t) {
    for (int64_t b : {int64_t{0}, num_blocks - 1})
      (void)product(size, b == num_blocks - 1, out_type);
  };
  if (rows >= kRowTile) want(0, 0, 0);
  for_each_piece(rows % kRowTile, want);
}

void Linear::Impl::multiply_rows(size_t size, int64_t row, int64_t count, int64_t b,
                                 ConstTensorView x, TensorView y) const {
  const int64_t rows = kRowSizes[size], columns = columns_of(b);
  const bool f32_out = product_type == DType::bf16 && y.dtype == DType::f32;
  const onednn::Product& p = *products[size][b == num_blocks - 1 ? 1 : 0][f32_out ? 1 : 0];
  const DType result_type = f32_out ? DType::f32 : product_type;

  // Widened or padded rows go through scratch.
  const void* src = static_cast<const std::byte*>(x.data) + row * x.row_bytes();
  if (x.dtype != product_type || count < rows) {
    const TensorView wide{thread_scratch(ScratchSlot::source, rows * in * dtype_size(product_type)),
                          product_type,
                          {rows, in}};
    convert(x.row_range(row, count), wide.row_range(0, count));
    const TensorView rest = wide.row_range(count, rows - count);
    std::memset(rest.data, 0, static_cast<size_t>(rest.num_bytes()));
    src = wide.data;
  }
  // The library's fast kernels write dense results only, so a block of columns does too.
  const int64_t y_size = dtype_size(y.dtype);
  std::byte* to = static_cast<std::byte*>(y.data) + (row * out + b * block) * y_size;
  const bool direct = result_type == y.dtype && count == rows && (columns == out || rows == 1);
  std::byte* dst =
      direct ? to
             : thread_scratch(ScratchSlot::destination, rows * columns * dtype_size(result_type));
  onednn::run(p, src, packed.as<uint8_t>() + b * block_bytes, bias_of(b), dst);
  if (direct) return;
  const int64_t dst_bytes = columns * dtype_size(result_type), y_bytes = out * y_size;
  for (int64_t r = 0; r < count; ++r, dst += dst_bytes, to += y_bytes) {
    if (result_type == y.dtype)
      std::memcpy(to, dst, static_cast<size_t>(dst_bytes));
    else
      kernels::narrow(reinterpret_cast<const float*>(dst), reinterpret_cast<bf16*>(to), columns);
  }
}

void Linear::Impl::multiply_tile(int64_t row, int64_t count, int64_t b, ConstTensorView x,
                                 TensorView y) const {
  for_each_piece(count, [&](size_t size, int64_t first, int64_t rows) {
    multiply_rows(size, row + first, rows, b, x, y);
  });
}

void Linear::apply(ConstTensorView x, TensorView y, ThreadPool& pool) const {
  LH_CHECK(defined());
  Impl& m = *impl_;
  const bool out_ok = y.dtype == m.compute || (m.compute == DType::bf16 && y.dtype == DType::f32);
  LH_CHECK(x.shape.rank() == 2 && y.shape.rank() == 2 && x.dtype == m.compute && out_ok &&
               x.shape[1] == m.in && y.shape == Shape({x.shape[0], m.out}),
           "x {} {}, out {} {} for a layer {} -> {} in {}", dtype_name(x.dtype),
           x.shape.to_string(), dtype_name(y.dtype), y.shape.to_string(), m.in, m.out,
           dtype_name(m.compute));
  const int64_t rows = x.shape[0];
  if (rows == 0) return;
  if (m.compute == DType::f64) {
    const double* bias = m.bias.defined() ? m.bias.as<double>() : nullptr;
    f64::multiply(x.as<double>(), m.panels, bias, y.as<double>(), rows, m.in, m.out, pool);
    return;
  }
  m.prepare(rows, y.dtype);
  // One task is some column blocks of one row tile; neighbours share the rows.
  const double tile_rows = static_cast<double>(std::min(rows, kRowTile));
  const double block_seconds = 2 * tile_rows * static_cast<double>(m.in * m.block) / kFlopsASecond +
                               static_cast<double>(m.block_bytes) / kWeightBytesASecond;
  const int64_t group =
      std::clamp<int64_t>(static_cast<int64_t>(kLeastTaskSeconds / block_seconds), 1, m.num_blocks);
  const int64_t groups = (m.num_blocks + group - 1) / group;
  pool.parallel_for((rows + kRowTile - 1) / kRowTile * groups, [&](int64_t task, int) {
    const int64_t row = task / groups * kRowTile, first = task % groups * group;
    for (int64_t b = first; b < std::min(first + group, m.num_blocks); ++b)
      m.multiply_tile(row, std::min(kRowTile, rows - row), b, x, y);
  });
}

}  // namespace longhaul::ops
