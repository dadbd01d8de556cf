#include "runtime/ops/cuda/matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/core/cuda/check.h"
#include "runtime/core/cuda/device.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::ops::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
// Row counts from here on are many waves of tiles: one algorithm serves them all.
constexpr int64_t kManyRows = 16384;
// The one for which deterministic products are chosen, whatever the row count, until a faster
// algorithm has been seen to give the same bits.
constexpr int64_t kDeterministicRows = 4096;
constexpr int kProposals = 12;
constexpr size_t kMostPlans = 4096;

std::string describe(const MatmulShape& s) {
  return fmt::format("[{}, {}] x [{}, {}]^T in {} to {}{}{}{}, rows of out {} apart", s.rows,
                     s.depth, s.features, s.depth, dtype_name(s.dtype), dtype_name(s.out_dtype),
                     s.bias ? ", bias" : "", s.accumulate ? ", accumulated" : "",
                     s.deterministic ? ", deterministic" : "", s.out_stride);
}

void check_blas(cublasStatus_t status, const char* call, const MatmulShape& shape, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(status == CUBLAS_STATUS_ALLOC_FAILED ? ExitCode::resource : ExitCode::internal,
              fmt::format("cuBLASLt: {} failed: {} ({}) for {}", call,
                          cublasLtGetStatusName(status), static_cast<int>(status), describe(shape)),
              __FILE__, line);
}
#define LH_BLAS(function, shape, ...) check_blas(function(__VA_ARGS__), #function, shape, __LINE__)

cudaDataType_t type_of(DType dtype) {
  LH_CHECK(dtype == DType::f32 || dtype == DType::bf16, "products of {}", dtype_name(dtype));
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

// The library's view of a shape. Its matrices are stored by columns, so that rows here are columns
// there: out^T [features, rows] = (weight^T)^T x^T.
struct Problem {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t weight, x, out;

  explicit Problem(const MatmulShape& s) {
    const cudaDataType_t type = type_of(s.dtype);
    const auto features = static_cast<uint64_t>(s.features), depth = static_cast<uint64_t>(s.depth);
    const auto rows = static_cast<uint64_t>(s.rows);
    LH_BLAS(cublasLtMatmulDescInit, s, &product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(s, CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (s.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      set(s, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      set(s, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(s.out_dtype)));
    }
    LH_BLAS(cublasLtMatrixLayoutInit, s, &weight, type, depth, features, s.depth);
    LH_BLAS(cublasLtMatrixLayoutInit, s, &x, type, depth, rows, s.depth);
    LH_BLAS(cublasLtMatrixLayoutInit, s, &out, type_of(s.out_dtype), features, rows, s.out_stride);
  }
  template <class T>
  void set(const MatmulShape& s, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    LH_BLAS(cublasLtMatmulDescSetAttribute, s, &product, attribute, &value, sizeof(value));
  }
};

// What is kept for a device, for as long as the process lives.
struct Context {
  cublasLtHandle_t handle = nullptr;
  // Products of one stream follow each other and may share their scratch; those of two may not.
  std::map<cudaStream_t, longhaul::cuda::Buffer> workspaces;
  struct Choice {
    cublasLtMatmulAlgo_t algorithm;
    bool measured = false;
  };
  std::map<MatmulShape, Choice> choices;  // by class of rows
  struct Plan {
    Problem problem;
    cublasLtMatmulAlgo_t algorithm;
  };
  std::map<MatmulShape, Plan> plans;  // by exact shape
  std::mutex mutex;
};

Context& context() {
  static std::mutex mutex;
  // Never destroyed: at exit the driver may be gone before us.
  static auto* contexts = new std::map<int, std::unique_ptr<Context>>;
  int device = 0;
  LH_CUDA(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  std::unique_ptr<Context>& c = (*contexts)[device];
  if (c == nullptr) {
    auto made = std::make_unique<Context>();
    check_blas(cublasLtCreate(&made->handle), "cublasLtCreate", {}, __LINE__);
    c = std::move(made);
  }
  return *c;
}

MatmulShape class_of(MatmulShape shape) {
  shape.rows = matmul_class_rows(shape.rows);
  return shape;
}

// The library's proposals, best first by its own reckoning.
std::vector<cublasLtMatmulAlgo_t> proposals(const Context& c, const MatmulShape& shape) {
  Problem problem(shape);
  cublasLtMatmulPreferenceOpaque_t preference;
  LH_BLAS(cublasLtMatmulPreferenceInit, shape, &preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    LH_BLAS(cublasLtMatmulPreferenceSetAttribute, shape, &preference, attribute, &value,
            sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  for (const auto operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(operand, static_cast<uint32_t>(shape.alignment));
  // Parts of a split sum are added in float32, never in the type of out.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(shape.deterministic ? CUBLASLT_REDUCTION_SCHEME_NONE
                                                   : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> results{};
  int count = 0;
  LH_BLAS(cublasLtMatmulAlgoGetHeuristic, shape, c.handle, &problem.product, &problem.weight,
          &problem.x, &problem.out, &problem.out, &preference, kProposals, results.data(), &count);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    const auto& r = results[static_cast<size_t>(i)];
    if (r.state != CUBLAS_STATUS_SUCCESS) continue;
    if (shape.deterministic) {
      int32_t split = 1;
      size_t written = 0;
      LH_BLAS(cublasLtMatmulAlgoConfigGetAttribute, shape, &r.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
              &split, sizeof(split), &written);
      if (split > 1) continue;
    }
    algorithms.push_back(r.algo);
  }
  if (algorithms.empty())
    check_blas(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic", shape, __LINE__);
  return algorithms;
}

cublasLtMatmulAlgo_t first_proposal(const Context& c, MatmulShape shape) {
  if (shape.deterministic) shape.rows = kDeterministicRows;
  return proposals(c, shape)[0];
}

const Context::Choice& choice(Context& c, const MatmulShape& class_shape) {
  const auto found = c.choices.find(class_shape);
  if (found != c.choices.end()) return found->second;
  return c.choices.emplace(class_shape, Context::Choice{first_proposal(c, class_shape)})
      .first->second;
}

bool fits(const Context& c, Problem p, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(c.handle, &p.product, &p.weight, &p.x, &p.out, &p.out, &algorithm,
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes);
}

const Context::Plan& plan(Context& c, const MatmulShape& shape) {
  const auto found = c.plans.find(shape);
  if (found != c.plans.end()) return found->second;
  if (c.plans.size() >= kMostPlans) c.plans.clear();
  Problem problem(shape);
  cublasLtMatmulAlgo_t algorithm = choice(c, class_of(shape)).algorithm;
  if (!fits(c, problem, algorithm)) {
    algorithm = first_proposal(c, shape);
    LH_CHECK(!shape.deterministic || fits(c, problem, algorithm),
             "the algorithm for {} rows cannot do {}", kDeterministicRows, describe(shape));
  }
  return c.plans.emplace(shape, Context::Plan{problem, algorithm}).first->second;
}

void* workspace(Context& c, cudaStream_t stream) {
  longhaul::cuda::Buffer& buffer = c.workspaces[stream];
  if (buffer.data() == nullptr)
    buffer = longhaul::cuda::Buffer(kWorkspaceBytes, "a matrix product's workspace",
                                    MemoryUse::activations);
  return buffer.data();
}

void launch(const Context& c, Context::Plan p, const MatmulShape& shape, const MatmulData& data,
            void* scratch, cudaStream_t stream) {
  if (shape.bias) p.problem.set(shape, CUBLASLT_MATMUL_DESC_BIAS_POINTER, data.bias);
  const float alpha = 1, beta = shape.accumulate ? 1.F : 0.F;
  LH_BLAS(cublasLtMatmul, shape, c.handle, &p.problem.product, &alpha, data.weight,
          &p.problem.weight, data.x, &p.problem.x, &beta, data.out, &p.problem.out, data.out,
          &p.problem.out, &p.algorithm, scratch, static_cast<size_t>(kWorkspaceBytes), stream);
}

}  // namespace

int64_t matmul_class_rows(int64_t rows) {
  if (rows >= kManyRows) return kManyRows;
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  if (rows <= 32) return power;
  const int64_t step = power / 8;  // a quarter of the power below
  return (rows + step - 1) / step * step;
}

void matmul(const MatmulShape& shape, const MatmulData& data, cudaStream_t stream) {
  Context& c = context();
  std::unique_lock lock(c.mutex);
  const Context::Plan p = plan(c, shape);
  void* scratch = workspace(c, stream);
  lock.unlock();
  launch(c, p, shape, data, scratch, stream);
}

bool matmul_is_prepared(const MatmulShape& shape) {
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  const auto found = c.choices.find(class_of(shape));
  return found != c.choices.end() && found->second.measured;
}

void matmul_prepare(const MatmulShape& shape, const MatmulPreparation& p, cudaStream_t stream) {
  if (matmul_is_prepared(shape)) return;
  Context& c = context();
  const std::lock_guard lock(c.mutex);
  const MatmulShape class_shape = class_of(shape);
  const Problem problem(class_shape);
  void* scratch = workspace(c, stream);
  std::vector<cublasLtMatmulAlgo_t> candidates = proposals(c, class_shape);
  if (class_shape.deterministic) {
    // Kernels of the library's present family add the terms of an element in the same order
    // whatever their tiles, so most or all of them stay.
    const cublasLtMatmulAlgo_t first = first_proposal(c, class_shape);
    const auto run = [&](const cublasLtMatmulAlgo_t& algorithm, void* out) {
      p.refill(out);
      MatmulData data = p.data;
      data.out = out;
      launch(c, {problem, algorithm}, class_shape, data, scratch, stream);
    };
    run(first, p.data.out);
    std::erase_if(candidates, [&](const cublasLtMatmulAlgo_t& algorithm) {
      run(algorithm, p.other_out);
      return !p.same();
    });
    candidates.insert(candidates.begin(), first);
  }
  using longhaul::cuda::Event;
  Event begin(Event::Timing::on), end(Event::Timing::on);
  // They take turns, since the chip's clock falls with its temperature and power. The first turn
  // warms up.
  constexpr size_t kTurns = 7;
  std::vector<std::array<double, kTurns>> times(candidates.size());
  for (size_t turn = 0; turn <= kTurns; ++turn)
    for (size_t i = 0; i < candidates.size(); ++i) {
      begin.record(stream);
      launch(c, {problem, candidates[i]}, class_shape, p.data, scratch, stream);
      end.record(stream);
      LH_CUDA(cudaStreamSynchronize(stream));
      if (turn > 0) times[i][turn - 1] = longhaul::cuda::milliseconds_between(begin, end);
    }
  const auto median = [&](size_t i) {
    std::sort(times[i].begin(), times[i].end());
    return times[i][kTurns / 2];
  };
  constexpr double kGain = 0.98;  // less than this is noise: the library's choice stays
  size_t best = 0;
  double best_time = median(0) * kGain;
  for (size_t i = 1; i < candidates.size(); ++i) {
    const double time = median(i);
    if (time >= best_time) continue;
    best_time = time;
    best = i;
  }
  c.choices.insert_or_assign(class_shape, Context::Choice{candidates[best], true});
  c.plans.clear();  // those of the class were made with another algorithm
}

}  // namespace longhaul::ops::cuda
