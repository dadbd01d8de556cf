// The step between the QKV product and attention against the CPU path's arithmetic, restated.

#include "runtime/ops/cuda/qkv.h"

#include <algorithm>

#include "runtime/ops/cuda/random.h"
#include "tests/gpu/ops/ops_test_support.h"

namespace longhaul::test {
namespace {

using namespace ops::cuda;

struct Problem {
  DType dtype = DType::bf16;
  int64_t rows = 0, heads = 0, kv_heads = 0, dim = 0, dim_v = 0;
  bool norm = false, rope = false, plain = false;
  int destinations = 0;
  int64_t gap = 0;  // unused columns before q, between q and k
  int64_t extra_stride = 0;

  std::string text() const {
    return fmt::format("{} rows {} heads {}/{} of {}/{} norm {} rope {} plain {} to {} gap {} {}",
                       dtype_name(dtype), rows, heads, kv_heads, dim, dim_v, norm, rope, plain,
                       destinations, gap, extra_stride);
  }
};

// One head's vector as the CPU path makes it; `bound` gets what the result may differ by: the
// norm's last digit may round otherwise, and turns with the vector.
std::vector<double> finished(const Problem& p, std::vector<double> x,
                             const std::vector<double>& weight, const float* cos, const float* sin,
                             std::vector<double>& bound) {
  const auto n = static_cast<int64_t>(x.size());
  bound.assign(x.size(), 0);
  if (p.norm) {
    double sum = 0;
    for (const double v : x) sum += v * v;
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = x[i] * scale * weight[i];
      x[i] = rounded(exact, p.dtype);
      bound[i] = (2 * rounding(p.dtype) + 40 * kRound32) * std::abs(exact);
    }
  }
  if (!p.rope) return x;
  std::vector<double> turned(x.size()), turned_bound(x.size());
  const size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const auto a = static_cast<float>(x[i]), b = static_cast<float>(x[half + i]);
    turned[i] = rounded(static_cast<double>(std::fmaf(-b, sin[i], a * cos[i])), p.dtype);
    turned[half + i] = rounded(static_cast<double>(std::fmaf(a, sin[i], b * cos[i])), p.dtype);
    const double c = std::abs(static_cast<double>(cos[i])),
                 s = std::abs(static_cast<double>(sin[i]));
    if (!p.norm) continue;  // the same bits then
    const double unit = 2 * rounding(p.dtype);
    turned_bound[i] = bound[i] * c + bound[half + i] * s + unit * std::abs(turned[i]);
    turned_bound[half + i] = bound[half + i] * c + bound[i] * s + unit * std::abs(turned[half + i]);
  }
  bound = turned_bound;
  return turned;
}

class Qkv : public GpuOps {
 protected:
  void run(const Problem& p) {
    const int64_t q_size = p.heads * p.dim, k_size = p.kv_heads * p.dim;
    const int64_t v_size = p.kv_heads * p.dim_v;
    const int64_t q_column = p.gap, k_column = q_column + q_size + p.gap;
    const int64_t v_column = k_column + k_size;
    const int64_t columns = v_column + v_size;
    const std::vector<double> x = random_values(p.rows * columns, p.dtype);
    const std::vector<double> wq = random_values(p.dim, p.dtype),
                              wk = random_values(p.dim, p.dtype);
    std::vector<float> cos, sin;
    for (int64_t i = 0; i < p.rows * p.dim / 2; ++i) {
      const double angle = static_cast<double>(between(0, 1000000)) * 1e-3;
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
    const DeviceTensor dx = upload(x, p.dtype, {p.rows, columns});
    const DeviceTensor dwq = upload(wq, p.dtype, {p.dim}), dwk = upload(wk, p.dtype, {p.dim});
    const DeviceTensor dcos = upload_as(cos, {p.rows, p.dim / 2});
    const DeviceTensor dsin = upload_as(sin, {p.rows, p.dim / 2});
    const DeviceTensor q = poisoned(p.dtype, {p.rows, p.heads, p.dim});
    const DeviceTensor k = poisoned(p.dtype, {p.rows, p.kv_heads, p.dim});
    const DeviceTensor v = poisoned(p.dtype, {p.rows, p.kv_heads, p.dim_v});

    QkvArgs args;
    args.qkv = dx;
    args.num_heads = p.heads;
    args.num_kv_heads = p.kv_heads;
    args.head_dim = p.dim;
    args.head_dim_v = p.dim_v;
    args.q_column = q_column;
    args.k_column = k_column;
    args.v_column = v_column;
    args.norm_eps = 1e-6;
    if (p.norm) args.q_norm = dwq, args.k_norm = dwk;
    if (p.rope) args.cos = dcos, args.sin = dsin;
    if (p.heads > 0) args.q = q;
    if (p.plain && p.kv_heads > 0) args.k_out = k, args.v_out = v;
    const int64_t stride = k_size + v_size + p.extra_stride;
    args.kv_row_stride = stride;
    args.num_destinations = p.destinations;
    // Every destination takes about half of the rows, in another order.
    const int64_t places = p.rows + 5;
    std::vector<std::vector<int64_t>> place(static_cast<size_t>(p.destinations));
    std::vector<DeviceTensor> bases, tables;
    for (auto& to : place) {
      std::vector<int64_t> free(static_cast<size_t>(places));
      for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int64_t>(i);
      std::shuffle(free.begin(), free.end(), random_);
      for (int64_t r = 0; r < p.rows; ++r)
        to.push_back(between(0, 1) == 0 ? -1 : free[static_cast<size_t>(r)]);
      bases.push_back(poisoned(p.dtype, {places, stride}));
      tables.push_back(upload_as(to, {p.rows}));
      args.destinations[bases.size() - 1] = {bases.back().view().data,
                                             tables.back().view().as<int64_t>()};
    }
    finish_qkv(args, stream());

    std::vector<double> want_q, want_k, want_v, bound_q, bound_k, bound;
    const auto head = [&](int64_t row, int64_t column, int64_t n) {
      const auto begin = x.begin() + row * columns + column;
      return std::vector<double>(begin, begin + n);
    };
    const auto append = [](std::vector<double>& to, const std::vector<double>& more) {
      to.insert(to.end(), more.begin(), more.end());
    };
    for (int64_t r = 0; r < p.rows; ++r) {
      const float* c = cos.data() + r * p.dim / 2;
      const float* s = sin.data() + r * p.dim / 2;
      for (int64_t h = 0; h < p.heads; ++h) {
        append(want_q, finished(p, head(r, q_column + h * p.dim, p.dim), wq, c, s, bound));
        append(bound_q, bound);
      }
      for (int64_t h = 0; h < p.kv_heads; ++h) {
        append(want_k, finished(p, head(r, k_column + h * p.dim, p.dim), wk, c, s, bound));
        append(bound_k, bound);
      }
      append(want_v, head(r, v_column, v_size));
    }
    const std::string what = p.text();
    const std::vector<double> got_q = download(q);
    expect_within(
        got_q, want_q, [&](size_t i) { return bound_q[i]; }, "q, " + what);
    // A digit of the norm rounds otherwise for few elements only: the path is the CPU's.
    int64_t differ = 0;
    for (size_t i = 0; i < got_q.size(); ++i) differ += got_q[i] != want_q[i];
    if (p.dtype == DType::bf16) {
      EXPECT_LE(differ, static_cast<int64_t>(got_q.size()) / 200 + 3) << what;
    }
    if (args.k_out.data != nullptr) {
      expect_within(
          download(k), want_k, [&](size_t i) { return bound_k[i]; }, "k, " + what);
      EXPECT_EQ(download(v), want_v) << "v, " << what;
    }
    for (size_t d = 0; d < place.size(); ++d) {
      const std::vector<double> got = download(bases[d]);
      std::vector<bool> written(got.size());
      std::vector<double> got_k, got_v, sure_k, sure_v, sure_bound;
      for (int64_t r = 0; r < p.rows; ++r) {
        const int64_t to = place[d][static_cast<size_t>(r)];
        if (to < 0) continue;
        const auto from = got.begin() + to * stride;
        append(got_k, {from, from + k_size});
        append(got_v, {from + k_size, from + k_size + v_size});
        append(sure_k, {want_k.begin() + r * k_size, want_k.begin() + (r + 1) * k_size});
        append(sure_bound, {bound_k.begin() + r * k_size, bound_k.begin() + (r + 1) * k_size});
        append(sure_v, {want_v.begin() + r * v_size, want_v.begin() + (r + 1) * v_size});
        std::fill_n(written.begin() + to * stride, k_size + v_size, true);
      }
      expect_within(
          got_k, sure_k, [&](size_t i) { return sure_bound[i]; }, "sent k, " + what);
      EXPECT_EQ(got_v, sure_v) << "sent v, " << what;
      int64_t touched = 0;
      for (size_t i = 0; i < got.size(); ++i) touched += !written[i] && !std::isnan(got[i]);
      EXPECT_EQ(touched, 0) << what;
    }
  }
};

TEST_F(Qkv, UsualModels) {
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const bool norm : {false, true}) {
      run({dtype, 37, 32, 4, 128, 128, norm, true, true, 9, 0, 0});
      run({dtype, 20, 64, 8, 64, 64, norm, true, false, 2, 0, 0});
      run({dtype, 11, 16, 2, 256, 256, norm, true, false, 3, 0, 64});
      run({dtype, 13, 14, 2, 96, 96, norm, true, true, 1, 0, 0});
      run({dtype, 13, 16, 16, 192, 128, norm, true, true, 1, 0, 0});
      // Keys and values first, then queries.
      run({dtype, 29, 0, 4, 128, 128, norm, true, false, 4, 0, 0});
      run({dtype, 29, 32, 0, 128, 128, norm, true, false, 0, 0, 0});
      run({dtype, 0, 32, 4, 128, 128, norm, true, true, 1, 0, 0});
    }
}

TEST_F(Qkv, AnyShape) {
  for (int i = 0; i < 150; ++i) {
    Problem p;
    p.dtype = between(0, 1) == 0 ? DType::f32 : DType::bf16;
    p.rows = between(1, 70);
    p.heads = between(0, 9);
    p.kv_heads = between(p.heads == 0 ? 1 : 0, 5);
    const int64_t unit = between(0, 2) == 0 ? 2 : 16;
    p.dim = unit * between(1, 300 / unit);
    p.dim_v = between(0, 1) == 0 ? p.dim : between(1, 140);
    p.norm = between(0, 1) == 0;
    p.rope = between(0, 3) != 0;
    p.plain = between(0, 1) == 0;
    p.destinations = static_cast<int>(between(0, 9));
    p.gap = between(0, 1) * (between(0, 1) == 0 ? 16 : between(1, 20));
    p.extra_stride = between(0, 1) * between(0, 40);
    run(p);
  }
}

TEST_F(Qkv, CopiesRunsOfRows) {
  for (const int64_t row_bytes : {int64_t{2048}, int64_t{48}, int64_t{6}, int64_t{33}}) {
    const int64_t rows = 5000;
    const DeviceTensor from = poisoned(DType::u8, {rows, row_bytes});
    std::vector<uint8_t> x(static_cast<size_t>(rows * row_bytes));
    for (uint8_t& v : x) v = static_cast<uint8_t>(random_());
    LH_CUDA(cudaMemcpy(from.view().data, x.data(), x.size(), cudaMemcpyHostToDevice));
    const DeviceTensor to = poisoned(DType::u8, {rows, row_bytes});
    std::vector<uint8_t> want(x.size(), 0xff);
    std::vector<int64_t> runs;
    for (int64_t at = between(0, 9); at < rows;) {
      const int64_t count =
          std::min(rows - at, between(0, 3) == 0 ? between(0, 1500) : between(0, 9));
      const int64_t source = between(0, rows - count);
      runs.insert(runs.end(), {source, at, count});
      std::copy_n(x.begin() + source * row_bytes, count * row_bytes, want.begin() + at * row_bytes);
      at += count + between(0, 2);
    }
    const auto num_runs = static_cast<int64_t>(runs.size()) / 3;
    const DeviceTensor table = upload_as(runs, {num_runs, 3});
    copy_kv_rows(
        {from.view().data, to.view().data, row_bytes, table.view().as<int64_t>(), num_runs},
        stream());
    EXPECT_EQ(download_as<uint8_t>(to), want) << row_bytes;
  }
}

TEST_F(Qkv, PastTwoToThe31Elements) {
  const int64_t columns = 5120, rows = (int64_t{1} << 31) / columns + 1000;
  size_t free = 0, total = 0;
  LH_CUDA(cudaMemGetInfo(&free, &total));
  if (static_cast<int64_t>(free) < int64_t{16} << 30) GTEST_SKIP() << "needs 16 GiB";
  const DeviceTensor x = poisoned(DType::bf16, {rows, columns});
  const DeviceTensor q = poisoned(DType::bf16, {rows, 32, 128});
  const DeviceTensor kv = poisoned(DType::bf16, {rows, 1024});
  fill_random(x, 5, 0, 1, stream());
  std::vector<int64_t> order(static_cast<size_t>(rows));
  for (size_t i = 0; i < order.size(); ++i) order[i] = rows - 1 - static_cast<int64_t>(i);
  const DeviceTensor place = upload_as(order, {rows});
  QkvArgs args;
  args.qkv = x;
  args.num_heads = 32;
  args.num_kv_heads = 4;
  args.head_dim = 128;
  args.k_column = 4096;
  args.v_column = 4608;
  args.q = q;
  args.destinations[0] = {kv.view().data, place.view().as<int64_t>()};
  args.num_destinations = 1;
  finish_qkv(args, stream());  // neither norm nor rotation: a copy
  for (const int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
    const std::vector<double> from = download(x.view().row_range(row, 1));
    EXPECT_EQ(download(q.view().row_range(row, 1)),
              std::vector<double>(from.begin(), from.begin() + 4096));
    EXPECT_EQ(download(kv.view().row_range(rows - 1 - row, 1)),
              std::vector<double>(from.begin() + 4096, from.end()));
  }
}

}  // namespace
}  // namespace longhaul::test
