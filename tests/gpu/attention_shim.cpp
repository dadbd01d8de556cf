// A C interface to GPU attention for scripts that time it beside other programs' kernels in one
// process (scripts/bench_gpu_attention.py).

#include <cstdio>
#include <cstring>
#include <exception>

#include "attention/backends/cuda/attention.h"

namespace cuda_attention = longhaul::attention::cuda;

extern "C" {

// shape4: head_dim, head_dim_v, heads, kv heads. items: 6 numbers each, as in Item. options3:
// multiprocessors, page size, deterministic. sizes3 gets the bytes of the table and of the
// workspace and the number of parts. Returns the plan, which is never freed, or null with a line on
// stderr.
void* longhaul_plan(const int* shape4, const int64_t* items, int64_t num_items, const int* options3,
                    int64_t* sizes3) {
  try {
    std::vector<cuda_attention::Item> list;
    for (int64_t i = 0; i < num_items; ++i) {
      const int64_t* x = items + 6 * i;
      list.push_back({x[0], x[1], x[2], x[3], x[4], x[5]});
    }
    const cuda_attention::Shape shape{longhaul::DType::bf16, shape4[0], shape4[1], shape4[2],
                                      shape4[3]};
    auto* plan = new cuda_attention::Plan(cuda_attention::make_plan(
        cuda_attention::Kernel::sm90, shape, list, {options3[0], options3[1], options3[2] != 0}));
    sizes3[0] = static_cast<int64_t>(plan->table.size());
    sizes3[1] = plan->workspace_bytes;
    sizes3[2] = plan->num_splits;
    return plan;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longhaul_plan: %s\n", e.what());
    return nullptr;
  }
}

void longhaul_plan_table(const void* plan, void* to) {
  const auto& table = static_cast<const cuda_attention::Plan*>(plan)->table;
  std::memcpy(to, table.data(), table.size());
}

// numbers6: q_rows, kv_rows, q, k, v, out strides. page_table may be null.
int longhaul_attention(const void* plan, const void* q, const void* k, const void* v, void* out,
                       float* lse, const int64_t* numbers6, double scale, const void* table,
                       void* workspace, const int32_t* page_table, void* stream) {
  try {
    cuda_attention::Args args;
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
    args.table = table;
    args.workspace = workspace;
    args.page_table = page_table;
    cuda_attention::forward(*static_cast<const cuda_attention::Plan*>(plan), args,
                            static_cast<cudaStream_t>(stream));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longhaul_attention: %s\n", e.what());
    return -1;
  }
}

}  // extern "C"
