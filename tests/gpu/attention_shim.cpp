// A C interface to the sm_90a attention kernel for scripts that time it beside other programs'
// kernels in one process (scripts/bench_gpu_attention.py).

#include <cstdio>
#include <cstring>
#include <exception>

#include "attention/backends/cuda/attention_sm90.h"

namespace sm90 = longhaul::attention::sm90;

extern "C" {

// items: 5 numbers each, as in sm90::Item. Writes at most `capacity` tiles of 32 bytes to `tiles`
// and returns how many there are, or -1 with a line on stderr.
int64_t longhaul_plan(const int* shape4, const int64_t* items, int64_t num_items, void* tiles,
                      int64_t capacity) {
  try {
    std::vector<sm90::Item> list;
    for (int64_t i = 0; i < num_items; ++i) {
      const int64_t* x = items + 5 * i;
      list.push_back({x[0], x[1], x[2], x[3], x[4]});
    }
    const auto plan = sm90::plan_tiles({shape4[0], shape4[1], shape4[2], shape4[3]}, list);
    const auto count = static_cast<int64_t>(plan.size());
    if (count <= capacity) std::memcpy(tiles, plan.data(), plan.size() * sizeof(sm90::Tile));
    return count;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longhaul_plan: %s\n", e.what());
    return -1;
  }
}

// shape4: head_dim, head_dim_v, heads, kv heads. numbers6: q_rows, kv_rows, q, k, v, out strides.
int longhaul_attention(const int* shape4, const void* q, const void* k, const void* v, void* out,
                       float* lse, const int64_t* numbers6, double scale, int64_t max_kv_length,
                       void* workspace, int64_t num_tiles, void* stream) {
  try {
    sm90::Args args;
    args.q = q;
    args.k = k;
    args.v = v;
    args.out = out;
    args.lse = lse;
    args.q_rows = numbers6[0];
    args.kv_rows = numbers6[1];
    args.q_stride = numbers6[2];
    args.k_stride = numbers6[3];
    args.v_stride = numbers6[4];
    args.out_stride = numbers6[5];
    args.scale = scale;
    args.max_kv_length = max_kv_length;
    args.workspace = workspace;
    args.num_tiles = num_tiles;
    sm90::forward({shape4[0], shape4[1], shape4[2], shape4[3]}, args, stream);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longhaul_attention: %s\n", e.what());
    return -1;
  }
}

}  // extern "C"
