#include "tests/gpu/attention_reference.cuh"

namespace longhaul::test {
namespace {

__device__ uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__global__ void normal_kernel(__nv_bfloat16* data, size_t count, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint64_t r = mix(seed * 0x2545f4914f6cdd1dull + i);
    const float u = (static_cast<float>(r >> 40) + 0.5f) * 0x1p-24f;
    const float angle = static_cast<float>(r & 0xffffff) * 0x1p-24f;
    data[i] = __float2bfloat16(scale * sqrtf(-2.f * logf(u)) * cospif(2.f * angle));
  }
}

__device__ void atomic_max(double* address, double value) {  // value >= 0: bits order like numbers
  atomicMax(reinterpret_cast<unsigned long long*>(address),
            static_cast<unsigned long long>(__double_as_longlong(value)));
}

// Block-wide reduction of one double per thread.
template <class Op>
__device__ double reduce(double value, Op op, double* scratch) {
  __syncthreads();
  scratch[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      scratch[threadIdx.x] = op(scratch[threadIdx.x], scratch[threadIdx.x + half]);
    }
    __syncthreads();
  }
  return scratch[0];
}

__device__ int64_t key_row(const ReferenceProblem& p, const ReferenceRow& row, int64_t key) {
  if (row.page_begin < 0) return row.kv_row + key;
  return int64_t{p.page_table[row.page_begin + key / p.page_size]} * p.page_size +
         key % p.page_size;
}

// One block of 128 threads per row and head; scores of all visible keys in shared memory.
__global__ void compare_kernel(ReferenceProblem p, const ReferenceRow* rows, Difference* result) {
  extern __shared__ float scores[];
  __shared__ double scratch[128];
  __shared__ float query[256];
  const ReferenceRow row = rows[blockIdx.x];
  const int head = blockIdx.y, kv_head = head / (p.num_heads / p.num_kv_heads);
  for (int c = threadIdx.x; c < p.head_dim; c += blockDim.x) {
    query[c] = __bfloat162float(p.q[row.q_row * p.q_stride + head * p.head_dim + c]);
  }
  __syncthreads();

  double top = -INFINITY;
  for (int64_t j = threadIdx.x; j < row.visible; j += blockDim.x) {
    const __nv_bfloat16* key = p.k + key_row(p, row, j) * p.k_stride + kv_head * p.head_dim;
    float part[4] = {};
    for (int c = 0; c < p.head_dim; c += 4) {
      for (int i = 0; i < 4; ++i) {
        part[i] = fmaf(query[c + i], __bfloat162float(key[c + i]), part[i]);
      }
    }
    scores[j] = p.scale * ((part[0] + part[1]) + (part[2] + part[3]));
    top = fmax(top, static_cast<double>(scores[j]));
  }
  top = reduce(
      top, [](double a, double b) { return fmax(a, b); }, scratch);
  double sum = 0;
  for (int64_t j = threadIdx.x; j < row.visible; j += blockDim.x) {
    sum += exp(static_cast<double>(scores[j]) - top);
  }
  sum = reduce(
      sum, [](double a, double b) { return a + b; }, scratch);

  const double lse = row.visible > 0 ? top + log(sum) : -INFINITY;
  if (threadIdx.x == 0) {
    const float ours = p.lse[row.q_row * p.num_heads + head];
    if (row.visible == 0) {
      if (!(ours == -INFINITY)) atomicAdd(&result->bad, 1);
    } else if (!isfinite(ours)) {
      atomicAdd(&result->bad, 1);
    } else {
      atomic_max(&result->max_lse_error, fabs(ours - lse));
    }
  }

  double max_error = 0, max_naive = 0, max_exact = 0, error2 = 0, naive2 = 0, exact2 = 0;
  for (int c = threadIdx.x; c < p.head_dim_v; c += blockDim.x) {
    double exact = 0;
    float plain = 0;
    for (int64_t j = 0; j < row.visible; ++j) {
      const float value =
          __bfloat162float(p.v[key_row(p, row, j) * p.v_stride + kv_head * p.head_dim_v + c]);
      const float weight = expf(scores[j] - static_cast<float>(lse));
      exact += static_cast<double>(weight) * value;
      plain = fmaf(__bfloat162float(__float2bfloat16(weight)), value, plain);
    }
    const int64_t at = row.q_row * p.out_stride + head * p.head_dim_v + c;
    const float ours = p.out_f32 ? static_cast<const float*>(p.out)[at]
                                 : __bfloat162float(static_cast<const __nv_bfloat16*>(p.out)[at]);
    if (!isfinite(ours) || (row.visible == 0 && ours != 0.f)) atomicAdd(&result->bad, 1);
    const double error = fabs(ours - exact);
    const double naive = fabs(__bfloat162float(__float2bfloat16(plain)) - exact);
    max_error = fmax(max_error, error);
    max_naive = fmax(max_naive, naive);
    max_exact = fmax(max_exact, fabs(exact));
    error2 += error * error;
    naive2 += naive * naive;
    exact2 += exact * exact;
  }
  atomic_max(&result->max_error, max_error);
  atomic_max(&result->max_naive_error, max_naive);
  atomic_max(&result->max_exact, max_exact);
  atomicAdd(&result->sum_error2, error2);
  atomicAdd(&result->sum_naive2, naive2);
  atomicAdd(&result->sum_exact2, exact2);
}

}  // namespace

void fill_normal(__nv_bfloat16* data, size_t count, uint64_t seed, float scale) {
  normal_kernel<<<2048, 256>>>(data, count, seed, scale);
  LH_CUDA(cudaGetLastError());
}

Difference compare_with_reference(const ReferenceProblem& problem,
                                  const std::vector<ReferenceRow>& rows, int64_t max_visible) {
  Difference host;
  if (rows.empty()) return host;
  const DeviceBuffer<ReferenceRow> device_rows(rows);
  const DeviceBuffer<Difference> result(std::vector<Difference>(1));
  // Rounded up: the compiler reads the scores in 16-byte words.
  const size_t shared = static_cast<size_t>(max_visible / 4 + 1) * 16;
  LH_CUDA(cudaFuncSetAttribute(compare_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  const dim3 grid(static_cast<unsigned>(rows.size()), static_cast<unsigned>(problem.num_heads));
  compare_kernel<<<grid, 128, shared>>>(problem, device_rows.get(), result.get());
  LH_CUDA(cudaGetLastError());
  LH_CUDA(cudaDeviceSynchronize());
  return result.to_host()[0];
}

}  // namespace longhaul::test
