#include "tests/gpu/gpu_test_support.h"
#include "tests/gpu/portable/portable_reference.cuh"

namespace longhaul::test::portable {
namespace {

__device__ uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__device__ float as_float(float x) {
  return x;
}
__device__ float as_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ T rounded(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16(x);
  } else {
    return x;
  }
}

template <class T>
__global__ void fill_kernel(T* data, int64_t stride, const int64_t* rows, uint64_t seed,
                            float scale) {
  const int64_t row = rows[blockIdx.x];
  for (int64_t i = threadIdx.x; i < stride; i += blockDim.x) {
    const uint64_t r =
        mix(mix(seed * 1000003 + static_cast<uint64_t>(row)) + static_cast<uint64_t>(i));
    const float u = (static_cast<float>(r >> 40) + 0.5f) * 0x1p-24f;
    const float angle = static_cast<float>(r & 0xffffff) * 0x1p-24f;
    data[row * stride + i] = rounded<T>(scale * sqrtf(-2.f * logf(u)) * cospif(2.f * angle));
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

// One block of 128 threads per row and head; scores of all visible keys in shared memory.
template <class T>
__global__ void compare_kernel(ReferenceProblem s, const ReferenceRow* rows, Difference* result) {
  extern __shared__ double scores[];
  __shared__ double scratch[128];
  __shared__ float query[256];
  const ReferenceRow row = rows[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (s.num_heads / s.num_kv_heads);
  const auto* const q = static_cast<const T*>(s.q);
  const auto kv_row = [&](int64_t j) {
    if (row.page_begin < 0) return row.kv_row + j;
    return int64_t{s.page_table[row.page_begin + j / s.page_size]} * s.page_size + j % s.page_size;
  };
  for (int c = threadIdx.x; c < s.head_dim; c += blockDim.x) {
    query[c] = as_float(q[(row.q_row * s.num_heads + head) * s.head_dim + c]);
  }
  __syncthreads();

  double top = -INFINITY;
  for (int64_t j = threadIdx.x; j < row.visible; j += blockDim.x) {
    const T* key = static_cast<const T*>(s.k) + (kv_row(j) * s.num_kv_heads + kv_head) * s.head_dim;
    double dot = 0;
    for (int c = 0; c < s.head_dim; ++c) {
      dot = fma(static_cast<double>(query[c]), static_cast<double>(as_float(key[c])), dot);
    }
    scores[j] = s.scale * dot;
    top = fmax(top, scores[j]);
  }
  top = reduce(
      top, [](double x, double y) { return fmax(x, y); }, scratch);
  double sum = 0;
  for (int64_t j = threadIdx.x; j < row.visible; j += blockDim.x) sum += exp(scores[j] - top);
  sum = reduce(
      sum, [](double x, double y) { return x + y; }, scratch);

  const double lse = row.visible > 0 ? top + log(sum) : -INFINITY;
  if (threadIdx.x == 0) {
    const float ours = s.lse[row.q_row * s.num_heads + head];
    if (row.visible == 0) {
      if (!(ours == -INFINITY)) atomicAdd(&result->bad, 1);
    } else if (!isfinite(ours)) {
      atomicAdd(&result->bad, 1);
    } else {
      atomic_max(&result->max_lse_error, fabs(ours - lse));
    }
  }

  double max_error = 0, max_naive = 0, max_exact = 0, error2 = 0, naive2 = 0, exact2 = 0;
  for (int c = threadIdx.x; c < s.head_dim_v; c += blockDim.x) {
    double exact = 0;
    float plain = 0;
    for (int64_t j = 0; j < row.visible; ++j) {
      const float value = as_float(
          static_cast<const T*>(s.v)[(kv_row(j) * s.num_kv_heads + kv_head) * s.head_dim_v + c]);
      // The plain computation has its scores, its weights and its sums in float32.
      exact += exp(scores[j] - lse) * value;
      const float weight = expf(static_cast<float>(scores[j]) - static_cast<float>(lse));
      plain = fmaf(as_float(rounded<T>(weight)), value, plain);
    }
    const int64_t at = (row.q_row * s.num_heads + head) * s.head_dim_v + c;
    const float ours = s.out_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(s.out)[at])
                                  : static_cast<const float*>(s.out)[at];
    if (!isfinite(ours) || (row.visible == 0 && ours != 0.f)) atomicAdd(&result->bad, 1);
    const double error = fabs(ours - exact);
    const double naive = fabs(as_float(rounded<T>(plain)) - exact);
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

void fill_rows(bool bf16, void* data, int64_t stride, const std::vector<int64_t>& rows,
               uint64_t seed, float scale) {
  if (rows.empty()) return;
  const DeviceBuffer<int64_t> list(rows);
  const auto blocks = static_cast<unsigned>(rows.size());
  if (bf16) {
    fill_kernel<<<blocks, 256>>>(static_cast<__nv_bfloat16*>(data), stride, list.get(), seed,
                                 scale);
  } else {
    fill_kernel<<<blocks, 256>>>(static_cast<float*>(data), stride, list.get(), seed, scale);
  }
  LH_CUDA(cudaGetLastError());
  LH_CUDA(cudaDeviceSynchronize());
}

Difference compare(const ReferenceProblem& problem, const std::vector<ReferenceRow>& rows,
                   int64_t max_visible) {
  if (rows.empty()) return {};
  const DeviceBuffer<ReferenceRow> device_rows(rows);
  const DeviceBuffer<Difference> result(std::vector<Difference>(1));
  const size_t shared = static_cast<size_t>(max_visible + 1) * sizeof(double);
  const auto kernel = problem.bf16 ? compare_kernel<__nv_bfloat16> : compare_kernel<float>;
  LH_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  const dim3 grid(static_cast<unsigned>(rows.size()), static_cast<unsigned>(problem.num_heads));
  kernel<<<grid, 128, shared>>>(problem, device_rows.get(), result.get());
  LH_CUDA(cudaGetLastError());
  LH_CUDA(cudaDeviceSynchronize());
  return result.to_host()[0];
}

}  // namespace longhaul::test::portable
