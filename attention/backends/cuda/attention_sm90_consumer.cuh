#pragma once
// The consumers: warpgroups that multiply and form the softmax.

#include "attention/backends/cuda/attention_sm90_epilogue.cuh"
#include "attention/backends/cuda/attention_sm90_feed.cuh"
#include "attention/backends/cuda/attention_sm90_join.cuh"
#include "attention/backends/cuda/attention_sm90_pipeline.cuh"
#include "attention/backends/cuda/attention_sm90_softmax.cuh"
#include "runtime/core/cuda/wgmma.cuh"

namespace longhaul::attention::cuda::sm90 {

namespace wgmma = ::longhaul::cuda::wgmma;

// One consumer warpgroup: 64 query rows of every tile.
template <class C>
struct Consumer {
  Smem<C> smem;
  int group;           // 0 .. kWarpgroups - 1
  uint32_t zero_word;  // shared-memory address of a word that is 0
  Ring<C::kStages> k_ring, v_ring;
  float s[C::kBlockN / 2];
  float o[C::kDv / 2];
  uint32_t p[C::kBlockN / 4];
  uint32_t q[C::kQInRegisters ? C::kD / 4 : 4];
  RowState rows;

  // One arrival per warp: a warp knows only of its own reads (by wgmma, which the warp has waited
  // for).
  __device__ __forceinline__ void release(uint32_t empty) {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty);
  }

  // Enqueues s = q k^T for the block in the current stage of K.
  __device__ __forceinline__ void issue_scores(uint32_t q_tile) {
    const uint64_t a = wgmma::descriptor_k_major(q_tile + group * 64 * 128);
    const uint64_t b = wgmma::descriptor_k_major(smem.k(k_ring.stage));
#pragma unroll
    for (int step = 0; step < C::kD / 16; ++step) {
      const uint32_t a_at = (step / 4 * C::kBlockM * 128 + step % 4 * 32) / 16;
      const uint32_t b_at = (step / 4 * C::kBlockN * 128 + step % 4 * 32) / 16;
      if constexpr (C::kQInRegisters) {
        if (step == 0) {
          wgmma::Mma<C::kBlockN>::template rs<0, 0>(s, q + 4 * step, b + b_at);
        } else {
          wgmma::Mma<C::kBlockN>::template rs<1, 0>(s, q + 4 * step, b + b_at);
        }
      } else if (step == 0) {
        wgmma::Mma<C::kBlockN>::template ss<0>(s, a + a_at, b + b_at);
      } else {
        wgmma::Mma<C::kBlockN>::template ss<1>(s, a + a_at, b + b_at);
      }
    }
    wgmma::commit();
  }

  // Enqueues o += p v for the block in the current stage of V.
  __device__ __forceinline__ void issue_output() {
    const uint64_t b = wgmma::descriptor_n_major(smem.v(v_ring.stage), C::kBlockN * 128);
#pragma unroll
    for (int step = 0; step < C::kBlockN / 16; ++step) {
      wgmma::Mma<C::kDv>::template rs<1, 1>(o, p + 4 * step, b + step * (16 * 128 / 16));
    }
    wgmma::commit();
  }

  // Columns [16 step, 16 step + 16) of this warp's 16 query rows, in the layout of the A operand.
  __device__ __forceinline__ void load_q(uint32_t q_tile, int step, uint32_t (&a)[4]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = group * 64 + warp * 16 + lane % 16;
    const int chunk = (step % 4 * 2 + lane / 16) ^ (row % 8);
    ptx::ldmatrix_x4(a, q_tile + step / 4 * C::kBlockM * 128 + row * 128 + chunk * 16);
  }

  // s = q k^T once more for this warp, keys from global memory: the rare way out of the quick
  // softmax. The block's stage of K may be gone by then, and its scores have been overwritten.
  __device__ __forceinline__ void recompute_scores(const Params& params, const Slot& slot,
                                                   uint32_t q_tile, int block) {
    const int lane = threadIdx.x % 32;
    int key = block * C::kBlockN + lane / 4;
    const auto* keys =
        static_cast<const __nv_bfloat16*>(params.k_data) + slot.kv_head * C::kD + lane % 4 * 2;
    int page_begin = -1;
    if constexpr (C::kGeneral) {
      page_begin = late_field(smem, q_tile, offsetof(Slot, page_begin));
    } else {
      keys += (slot.kv_row + int64_t{key}) * params.k_stride;
    }
#pragma unroll
    for (int i = 0; i < C::kBlockN / 2; ++i) s[i] = 0.f;
#pragma unroll 1
    for (int step = 0; step < C::kD / 16; ++step) {
      uint32_t a[4];
      load_q(q_tile, step, a);
#pragma unroll
      for (int g = 0; g < C::kBlockN / 8; ++g) {  // eight keys at a time
        int64_t row = 8 * g;
        // Keeps the compiler from looking up all rows ahead: there are no registers for them.
        if constexpr (C::kGeneral) asm volatile("" : "+r"(key));
        if constexpr (C::kGeneral) row = key_row(params, page_begin, slot.kv_row, key + 8 * g);
        // Past the L1 cache: with ready flags a row may have come since a neighbour was read.
        const auto* b = reinterpret_cast<const unsigned*>(keys + row * params.k_stride + 16 * step);
        ptx::mma_m16n8k16(s + 4 * g, a, __ldcg(b), __ldcg(b + 4));
      }
    }
  }

  // Rows of V from `first` on belong to nobody this tile may see and may hold NaN: weight 0 does
  // not silence them, so they are cleared. Each warpgroup clears all of them rather than wait for
  // others.
  __device__ __forceinline__ void clear_values(int first) {
    const uint32_t v = smem.v(v_ring.stage);
    const int thread = threadIdx.x % 128;
#pragma unroll
    for (int slab = 0; slab < C::kDv / 64; ++slab) {
      for (int at = first * 8 + thread; at < C::kBlockN * 8; at += 128) {
        ptx::store_shared_zero16(v + slab * C::kBlockN * 128 + at * 16);
      }
    }
    ptx::fence_async_proxy();
    ptx::barrier_sync(1 + C::kWarpgroups + group, 128);
  }

  __device__ __forceinline__ void my_turn() {
    if constexpr (C::kPingPong) ptx::barrier_sync(1 + group, 256);
  }
  __device__ __forceinline__ void next_turn() {
    if constexpr (C::kPingPong) {
      ptx::barrier_arrive(1 + (group + 1 == C::kWarpgroups ? 0 : group + 1), 256);
    }
  }

  // The softmax of one block in the quick form; waits for the output of the block before on the
  // way, halfway through, when it is certain to be there: the registers of p are free from then on,
  // and the conversions of all weights fill the gaps between the exponentials of the second half.
  // Returns whether the weights are good.
  __device__ __forceinline__ bool quick_softmax(float scale_log2, bool next_k_ready) {
    constexpr int kHalf = C::kBlockN / 32 * 16;
    float part[4] = {};
    exponentiate<0, kHalf>(s, rows.shift, scale_log2, part);
    // The assembler would move the wait ahead of this arithmetic, and the second half ahead of the
    // wait. The wait stands behind a branch on a sum that is never negative; the second half needs
    // a number, always zero, that is read behind the wait.
    const float sum_so_far = rows.sum[0] + ((part[0] + part[1]) + (part[2] + part[3]));
    finish_output(sum_so_far < 0.f, next_k_ready);
    const float zero = ptx::load_shared_in_order(zero_word);
    const float shift[2] = {rows.shift[0] + zero, rows.shift[1] + zero};
    exponentiate<kHalf, C::kBlockN>(s, shift, scale_log2, part);
    pack_weights<0, C::kBlockN>(s, p);
    const float sum[2] = {part[0] + part[1], part[2] + part[3]};
    if (__any_sync(0xffffffffu, !(sum[0] + sum[1] <= kWeightLimit))) return false;
    rows.sum[0] += sum[0];
    rows.sum[1] += sum[1];
    return true;
  }

  // Waits until o is complete and gives back its stage of V. The branch, on the arrival of the next
  // keys and on `never`, is there for the order alone: the wait does not move across it.
  __device__ __forceinline__ void finish_output(bool never, bool next_k_ready) {
    if (never || !next_k_ready) {
      ptx::mbarrier_wait(smem.k_full(k_ring.stage), k_ring.parity ^ static_cast<uint32_t>(never));
    }
    wgmma::wait<0>();
    wgmma::pin(o);
    release(smem.v_empty(v_ring.stage));
    v_ring.advance();
  }

  // What this thread's rows of a tile see.
  struct View {
    int last[2];  // the last key that rows 0 and 1 of this thread see
    int clear;    // blocks [0, clear) need no mask for any row of the warpgroup
    int quick;    // blocks [0, quick) may use the quick softmax: no mask, and every row has seen a
                  // key
  };

  __device__ __forceinline__ View view_of(const Params& params, const Slot& slot,
                                          int first_block) const {
    // Rows count queries; where heads share the tile, all heads of a query before the next query.
    const auto query = [&](int row) {
      return C::kGeneral && params.heads_per_tile > 1 ? row / params.heads_per_tile : row;
    };
    const int row = group * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
    const int top = query(group * 64) + slot.diagonal;  // the top row sees the fewest keys
    View view;
    view.last[0] = min(query(row) + slot.diagonal, slot.kv_end - 1);
    view.last[1] = min(query(row + 8) + slot.diagonal, slot.kv_end - 1);
    view.clear = (max(min(top, slot.kv_end - 1), -1) + 1) / C::kBlockN;
    const int settled = top / C::kBlockN;  // here the top row sees a key
    view.quick = min(min(view.clear, settled), first_block);
    if (C::kGeneral && params.exact) view.quick = 0;
    return view;
  }

  __device__ __forceinline__ void mask(const View& view, int block) {
    if (block < view.clear) return;
    const int column = block * C::kBlockN + 2 * (threadIdx.x % 4);
    const int limit[2] = {view.last[0] - column, view.last[1] - column};
    mask_scores(s, limit);
  }

  // The first (rightmost) block of a tile up to its weights.
  __device__ __forceinline__ void first_block(const Params& params, const Slot& slot,
                                              const View& view, uint32_t q_tile, int block) {
    if constexpr (C::kQInRegisters) {
#pragma unroll
      for (int step = 0; step < C::kD / 16; ++step) {
        uint32_t a[4];
        load_q(q_tile, step, a);
#pragma unroll
        for (int i = 0; i < 4; ++i) q[4 * step + i] = a[i];
      }
    }
    ptx::mbarrier_wait(smem.k_full(k_ring.stage), k_ring.parity);
    wgmma::fence();
    issue_scores(q_tile);
    wgmma::wait<0>();
    wgmma::pin(s);
    release(smem.k_empty(k_ring.stage));
    k_ring.advance();
    mask(view, block);
    float alpha[2];
    update_softmax(s, rows, params.scale_log2, alpha);
    pack_weights<0, C::kBlockN>(s, p);
    const int tail = slot.kv_end - block * C::kBlockN;
    if (tail < C::kBlockN) {
      ptx::mbarrier_wait(smem.v_full(v_ring.stage), v_ring.parity);
      clear_values(tail);
    }
  }

  // Scores of this block, output of the block before it, weights of this block.
  __device__ __forceinline__ void next_block(const Params& params, const Slot& slot,
                                             const View& view, uint32_t q_tile, int block) {
    my_turn();
    wgmma::pin(p);
    wgmma::pin(o);
    wgmma::fence();
    issue_scores(q_tile);
    ptx::mbarrier_wait(smem.v_full(v_ring.stage), v_ring.parity);
    wgmma::fence();
    issue_output();
    next_turn();
    // Asked here, the answer comes while the scores are awaited.
    const uint32_t k_empty = smem.k_empty(k_ring.stage);
    k_ring.advance();
    const bool next_k_ready =
        block == 0 || ptx::mbarrier_test(smem.k_full(k_ring.stage), k_ring.parity);
    wgmma::wait<1>();
    wgmma::pin(s);
    release(k_empty);
    bool done = false;
    if (block < view.quick) {
      done = quick_softmax(params.scale_log2, next_k_ready);
      if (!done) recompute_scores(params, slot, q_tile, block);
    } else {
      finish_output(false, next_k_ready);
    }
    if (!done) {
      mask(view, block);
      float alpha[2];
      if (update_softmax(s, rows, params.scale_log2, alpha)) rescale(o, alpha);
      pack_weights<0, C::kBlockN>(s, p);
    }
  }

  // All key blocks of one tile, right to left. Scores of block j are multiplied before the output
  // of block j + 1, so the tensor cores work while the softmax of block j runs.
  __device__ __forceinline__ void run_tile(const Params& params, const Slot& slot,
                                           uint32_t q_tile) {
    int block = (slot.kv_end + C::kBlockN - 1) / C::kBlockN - 1;
    const View view = view_of(params, slot, block);
    first_block(params, slot, view, q_tile, block);
    if (--block >= 0) ptx::mbarrier_wait(smem.k_full(k_ring.stage), k_ring.parity);
    for (; block >= 0; --block) next_block(params, slot, view, q_tile, block);

    ptx::mbarrier_wait(smem.v_full(v_ring.stage), v_ring.parity);
    wgmma::pin(p);
    wgmma::pin(o);
    wgmma::fence();
    issue_output();
    wgmma::wait<0>();
    wgmma::pin(o);
    release(smem.v_empty(v_ring.stage));
    v_ring.advance();
  }
};

template <class C>
__device__ __forceinline__ void consume(const Params& params, Smem<C> smem, const Slot* slots,
                                        int group) {
  Consumer<C> me{smem, group, smem.base + C::kZeroOffset};
  Ring<C::kQStages> q_ring;
  // The first warpgroup starts; its turn is handed over once here by the last.
  if (group == C::kWarpgroups - 1) me.next_turn();
  while (true) {
    ptx::mbarrier_wait(smem.q_full(q_ring.stage), q_ring.parity);
    Slot slot = read_slot(slots[q_ring.stage]);
    if (slot.q_row < 0) break;
#pragma unroll
    for (int i = 0; i < C::kDv / 2; ++i) me.o[i] = 0.f;
    me.rows = RowState{};
    const uint32_t q_tile = smem.q(q_ring.stage);
    if (slot.kv_end > 0) me.run_tile(params, slot, q_tile);
    if constexpr (C::kGeneral) {
      slot.q_row = late_field(smem, q_tile, offsetof(Slot, q_row));
      slot.q_count = late_field(smem, q_tile, offsetof(Slot, q_count));
      slot.unit = late_field(smem, q_tile, offsetof(Slot, unit));
      slot.partial = late_field(smem, q_tile, offsetof(Slot, partial));
      slot.join = late_field(smem, q_tile, offsetof(Slot, join));
    }
    __syncwarp();  // every lane is done with its rows of Q
    me.release(smem.q_empty(q_ring.stage));
    q_ring.advance();
    if constexpr (!C::kGeneral) {
      write_rows<C::kDv>(params, me.o, me.rows, slot.q_row, slot.q_count, slot.unit, group * 64);
    } else {
      bool whole = slot.partial < 0;
      if (!whole) {
        if (C::kJoins && slot.join != 0) {
          if constexpr (C::kJoins) whole = join_parts<C>(params, me.o, me.rows, slot, group);
        } else {
          write_partial<C>(params, me.o, me.rows, slot, group * 64);
        }
      }
      if (whole) write_rows_general<C>(params, me.o, me.rows, slot, group * 64);
    }
  }
}

}  // namespace longhaul::attention::cuda::sm90
