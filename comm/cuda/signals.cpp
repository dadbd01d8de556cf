#include "comm/cuda/signals.h"

#include <cuda.h>

#include <array>

#include "comm/cuda/peer_kernels.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::comm::cuda {
namespace {

using BatchMemOp = CUresult (*)(CUstream, unsigned int, CUstreamBatchMemOpParams*, unsigned int);

void* find_batch_operation() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuStreamBatchMemOp", &function, 12000,
                                                             cudaEnableDefault, &found);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuStreamBatchMemOp", &function, cudaEnableDefault, &found);
#endif
  if (error == cudaSuccess && found == cudaDriverEntryPointSuccess) return function;
  (void)cudaGetLastError();
  return nullptr;
}

void check_driver(CUresult result, const char* what) {
  LH_CHECK(result == CUDA_SUCCESS, "CUDA: {} failed with driver error {}", what,
           static_cast<int>(result));
}

}  // namespace

Signals::Signals(bool memory_operations) {
  if (memory_operations) batch_ = find_batch_operation();
}

void Signals::write(cudaStream_t stream, std::span<uint32_t* const> words, uint32_t value) {
  if (words.empty()) return;
  LH_CHECK(words.size() <= kMostPeers, "{} signals at once", words.size());
  if (batch_ == nullptr) {
    write_words(stream, words.data(), static_cast<int>(words.size()), value);
    return;
  }
  std::array<CUstreamBatchMemOpParams, kMostPeers + 1> batch{};
  batch[0].memoryBarrier.operation = CU_STREAM_MEM_OP_BARRIER;
  batch[0].memoryBarrier.flags = CU_STREAM_MEMORY_BARRIER_TYPE_SYS;
  for (size_t i = 0; i < words.size(); ++i) {
    auto& write = batch[i + 1].writeValue;
    write.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    write.address = reinterpret_cast<CUdeviceptr>(words[i]);
    write.value = value;
    write.flags = CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER;
  }
  check_driver(reinterpret_cast<BatchMemOp>(batch_)(stream, static_cast<unsigned>(words.size() + 1),
                                                    batch.data(), 0),
               "cuStreamBatchMemOp (write)");
}

void Signals::wait(cudaStream_t stream, std::span<uint32_t* const> words, uint32_t value) {
  if (words.empty()) return;
  LH_CHECK(words.size() <= kMostPeers, "{} signals at once", words.size());
  if (batch_ == nullptr) {
    wait_for_words(stream, words.data(), static_cast<int>(words.size()), value);
    return;
  }
  std::array<CUstreamBatchMemOpParams, kMostPeers> batch{};
  for (size_t i = 0; i < words.size(); ++i) {
    auto& wait = batch[i].waitValue;
    wait.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    wait.address = reinterpret_cast<CUdeviceptr>(words[i]);
    wait.value = value;
    wait.flags = CU_STREAM_WAIT_VALUE_GEQ;
  }
  check_driver(reinterpret_cast<BatchMemOp>(batch_)(stream, static_cast<unsigned>(words.size()),
                                                    batch.data(), 0),
               "cuStreamBatchMemOp (wait)");
}

}  // namespace longhaul::comm::cuda
