#include "tests/unit/attention/scenes.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace longhaul::attention::testing {

using layout::BatchLayout;
using layout::Half;
using layout::LayoutKind;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t prime_length(Rng& rng, int64_t most) {
  constexpr int64_t kPrimes[] = {1,  2,  3,  5,  7,  11,  13,  17,  19,  23,  29,  31,  37,  41,
                                 43, 53, 61, 79, 97, 101, 127, 149, 173, 199, 233, 257, 283, 300};
  int64_t n = kPrimes[uniform(rng, 0, 27)];
  while (n > most) n = kPrimes[uniform(rng, 0, 27)];
  return n;
}

void copy_rows(ConstTensorView from, TensorView to) {
  ASSERT_EQ(from.num_bytes(), to.num_bytes());
  std::memcpy(to.data, from.data, static_cast<size_t>(from.num_bytes()));
}

// The rank's rows of a per-sequence tensor, in local row order, and back.
template <class Each>
void each_block(const BatchLayout& layout, int rank, Each&& each) {
  for (const Half half : {Half::prev, Half::next})
    for (int s = 0; s < layout.num_sequences(); ++s)
      if (const layout::Block& b = layout.block(rank, half, s); b.length > 0)
        each(static_cast<size_t>(s), b, layout.row(rank, half, s));
}
Tensor gather(const std::vector<Tensor>& whole, const BatchLayout& layout, int rank,
              const Shape& shape, DType dtype) {
  Tensor local(dtype, shape);
  each_block(layout, rank, [&](size_t s, const layout::Block& b, int64_t row) {
    copy_rows(static_cast<ConstTensorView>(whole[s]).row_range(b.start, b.length),
              local.view().row_range(row, b.length));
  });
  return local;
}

}  // namespace

Scene random_scene(DType dtype, Rng& rng, int cp) {
  constexpr int64_t kHeads[][2] = {{8, 8}, {8, 2}, {6, 1}, {5, 5}};
  constexpr int64_t kDims[] = {16, 16, 24, 32, 40, 64, 80, 96, 128, 256};
  Scene s;
  s.dtype = dtype;
  s.cp = cp > 0 ? cp : static_cast<int>(uniform(rng, 1, 8));
  const auto& heads = kHeads[uniform(rng, 0, 3)];
  s.heads = heads[0];
  s.kv_heads = heads[1];
  s.dim = kDims[uniform(rng, 0, 9)];
  s.dim_v = uniform(rng, 0, 4) == 0 ? 24 : s.dim;
  s.page_size = uniform(rng, 0, 1) == 0 ? 64 : uniform(rng, 1, 20);
  const bool large = uniform(rng, 0, 29) == 0;
  s.lengths.assign(static_cast<size_t>(uniform(rng, 1, large ? 2 : 8)), 0);
  const auto steps = uniform(rng, 1, 4);
  for (int64_t i = 0; i < steps; ++i) {
    std::vector<layout::SequenceExtent> extents;
    for (int64_t& length : s.lengths) {
      const int64_t extend = uniform(rng, 0, 5) == 0
                                 ? 0
                                 : prime_length(rng, i > 0 && uniform(rng, 0, 1) ? 1
                                                     : large                     ? 300
                                                                                 : 31);
      extents.push_back({length, extend});
      length += extend;
    }
    s.steps.push_back(extents);
    s.kinds.push_back(static_cast<LayoutKind>(uniform(rng, 0, 2)));
  }
  for (std::vector<std::vector<Tensor>>* all : {&s.q, &s.k, &s.v})
    for (int layer = 0; layer < s.layers; ++layer) {
      all->emplace_back();
      for (const int64_t length : s.lengths) {
        all->back().emplace_back(dtype, Shape{length, all == &s.q ? s.heads : s.kv_heads,
                                              all == &s.v ? s.dim_v : s.dim});
        fill_normal(all->back().back(), rng);
      }
    }
  return s;
}

Outcome empty_outcome(const Scene& s) {
  Outcome o;
  for (int layer = 0; layer < s.layers; ++layer) {
    o.out.emplace_back();
    o.lse.emplace_back();
    for (const int64_t length : s.lengths) {
      o.out.back().emplace_back(s.dtype, Shape{length, s.heads, s.dim_v});
      o.lse.back().emplace_back(accumulator_dtype(s.dtype), Shape{length, s.heads});
      fill(o.out.back().back(), kNaN);
      fill(o.lse.back().back(), kNaN);
    }
  }
  return o;
}

void run_rank(const Scene& s, comm::Communicator& comm, MakeBackend make, bool two_calls,
              Outcome& outcome) {
  const auto backend = make();
  ThreadPool pool(comm.rank() % 3 == 2 ? 2 : 1);
  backend->prepare({s.dtype, s.dim, s.dim_v, true, false}, pool.num_threads());
  const int sequences = static_cast<int>(s.lengths.size());
  PagedKvCache cache({s.layers, sequences, s.kv_heads, s.dim, s.dim_v, s.page_size, s.dtype});
  ContextParallelAttention attention(comm, *backend, pool, cache, {Strategy::allgather, two_calls});
  layout::KvOwnership ownership(s.cp, sequences);
  const DType acc = accumulator_dtype(s.dtype);
  for (size_t step = 0; step < s.steps.size(); ++step) {
    const BatchLayout layout = BatchLayout::make(s.kinds[step], s.cp, s.steps[step]);
    ownership.append(layout);
    attention.begin_step(layout, ownership);
    const int64_t rows = layout.num_tokens(comm.rank());
    for (int layer = 0; layer < s.layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      const Tensor q = gather(s.q[l], layout, comm.rank(), {rows, s.heads, s.dim}, s.dtype);
      const Tensor k = gather(s.k[l], layout, comm.rank(), {rows, s.kv_heads, s.dim}, s.dtype);
      const Tensor v = gather(s.v[l], layout, comm.rank(), {rows, s.kv_heads, s.dim_v}, s.dtype);
      Tensor out(s.dtype, {rows, s.heads, s.dim_v}), lse(acc, {rows, s.heads});
      fill(out, kNaN);
      fill(lse, kNaN);
      attention.run(layer, q, k, v, 1 / std::sqrt(static_cast<double>(s.dim)), out, lse);
      each_block(layout, comm.rank(), [&](size_t i, const layout::Block& b, int64_t row) {
        copy_rows(out.view().row_range(row, b.length),
                  outcome.out[l][i].view().row_range(b.start, b.length));
        copy_rows(lse.view().row_range(row, b.length),
                  outcome.lse[l][i].view().row_range(b.start, b.length));
      });
    }
  }
}

Problem flat_problem(const Scene& s, size_t layer, size_t sequence, int rank) {
  Problem p;
  p.dtype = s.dtype;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.dim = s.dim;
  p.dim_v = s.dim_v;
  p.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  p.rows = s.lengths[sequence];
  if (rank < 0) p.items = {{0, 0, p.rows, 0, p.rows}};
  for (size_t step = 0; rank >= 0 && step < s.steps.size(); ++step)
    for (const Half half : {Half::prev, Half::next}) {
      const layout::Block b = BatchLayout::make(s.kinds[step], s.cp, s.steps[step])
                                  .block(rank, half, static_cast<int>(sequence));
      p.items.push_back({0, b.start, b.length, b.start, b.end()});
    }
  p.kv = {{{0, p.rows, s.k[layer][sequence].data(), s.v[layer][sequence].data(), s.kv_heads * s.dim,
            s.kv_heads * s.dim_v}}};
  p.q = Tensor(s.dtype, s.q[layer][sequence].shape());
  copy_rows(s.q[layer][sequence], p.q);
  return p;
}

}  // namespace longhaul::attention::testing
