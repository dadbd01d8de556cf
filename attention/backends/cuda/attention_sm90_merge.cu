// The second kernel: joins the parts of tiles whose keys were cut, in ascending order of keys, so
// that the bits do not depend on which part was done first.

#include "attention/backends/cuda/attention_sm90_epilogue.cuh"
#include "attention/backends/cuda/attention_sm90_launch.h"

namespace longhaul::attention::cuda::sm90 {
namespace {

constexpr int kWarps = 4;
constexpr int kAtOnce = 8;  // parts whose loads are in flight together

// Four values of one row, merged with what out holds where `keep` > 0.
__device__ __forceinline__ void write4(const MergeParams& p, int64_t at, float4 value, float keep) {
  if (!p.out_f32) {
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(p.out) + at) =
        make_uint2(ptx::pack_bf16(value.x, value.y), ptx::pack_bf16(value.z, value.w));
    return;
  }
  auto* const to = reinterpret_cast<float4*>(static_cast<float*>(p.out) + at);
  if (keep > 0.f) {
    const float4 old = *to;
    value.x += keep * old.x;
    value.y += keep * old.y;
    value.z += keep * old.z;
    value.w += keep * old.w;
  }
  *to = value;
}

// One warp for each row. Block x: a cut tile and a unit of heads; y: kWarps rows of it.
__global__ void __launch_bounds__(32 * kWarps) merge_kernel(const MergeParams p) {
  const int lane = threadIdx.x % 32;
  const Merge merge = p.merges[blockIdx.x / p.num_units];
  const int unit = static_cast<int>(blockIdx.x) % p.num_units;
  const int row = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int query = row / p.heads_per_tile;
  ptx::wait_for_kernel_before();
  if (query >= merge.q_count) return;
  const int head = unit * p.heads_per_tile + row % p.heads_per_tile;
  const int64_t step = int64_t{p.num_units} * p.rows_per_tile;  // rows from one part to the next
  const int64_t first = (int64_t{merge.first} * p.num_units + unit) * p.rows_per_tile + row;

  const int64_t q_row = int64_t{merge.q_row} + query;
  const int64_t lse_at = q_row * p.num_heads + head;
  const float old_lse = p.accumulate ? p.lse[lse_at] : -INFINITY;
  __syncwarp();
  for (int column = 4 * lane; column - 4 * lane < p.head_dim_v; column += 128) {
    const bool inside = column < p.head_dim_v;
    float4 out = make_float4(0.f, 0.f, 0.f, 0.f);
    float sum = 0.f, top = -INFINITY;
    for (int from = 0; from < merge.count; from += kAtOnce) {
      float2 state[kAtOnce];
      float4 o[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const bool there = from + i < merge.count;
        const int64_t at = first + (from + i) * step;
        state[i] = there ? __ldcg(&p.partial_state[at]) : make_float2(-INFINITY, 0.f);
        o[i] = there && inside ? __ldcg(reinterpret_cast<const float4*>(p.partial_out +
                                                                        at * p.head_dim_v + column))
                               : make_float4(0.f, 0.f, 0.f, 0.f);
      }
      float higher = top;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) higher = fmaxf(higher, state[i].x);
      if (higher == -INFINITY) continue;  // no part has seen a key yet
      const float scale = ptx::exp2_fast(top - higher);
      top = higher;
      sum *= scale;
      out = make_float4(out.x * scale, out.y * scale, out.z * scale, out.w * scale);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float weight = ptx::exp2_fast(state[i].x - top);
        sum += weight * state[i].y;
        out.x += weight * o[i].x;
        out.y += weight * o[i].y;
        out.z += weight * o[i].z;
        out.w += weight * o[i].w;
      }
    }
    float inverse = sum > 0.f ? 1.f / sum : 0.f;
    float lse = sum > 0.f ? top * kLn2 + logf(sum) : -INFINITY;
    float keep = 0.f;
    if (p.accumulate) {
      const MergeWeights w = merge_weights(old_lse, lse);
      inverse *= w.new_weight;
      keep = w.old_weight;
      lse = w.lse;
    }
    if (inside) {
      write4(p, q_row * p.out_stride + int64_t{head} * p.head_dim_v + column,
             make_float4(out.x * inverse, out.y * inverse, out.z * inverse, out.w * inverse), keep);
    }
    if (column == 0) p.lse[lse_at] = lse;
  }
}

}  // namespace

cudaError_t load_merge() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, merge_kernel);
}

cudaError_t launch_merge(const MergeParams& params, int64_t num_merges, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(num_merges * params.num_units),
                        static_cast<unsigned>((params.rows_per_tile + kWarps - 1) / kWarps));
  config.blockDim = dim3(32 * kWarps);
  config.stream = stream;
  // Its blocks may take their places while the attention kernel still runs.
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, merge_kernel, params);
}

}  // namespace longhaul::attention::cuda::sm90
