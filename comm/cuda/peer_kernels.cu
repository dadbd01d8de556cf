#include <algorithm>

#include "comm/cuda/peer_kernels.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::comm::cuda {
namespace {

struct Words {
  uint32_t* at[kMostPeers];
};
struct Buffers {
  char* at[kMostPeers];
};

__device__ void store_release(uint32_t* word, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ uint32_t load_acquire(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

__global__ void write_kernel(const __grid_constant__ Words words, int count, uint32_t value) {
  __threadfence_system();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    store_release(words.at[i], value);
}

__global__ void wait_kernel(const __grid_constant__ Words words, int count, uint32_t value) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    while (static_cast<int32_t>(load_acquire(words.at[i]) - value) < 0) __nanosleep(100);
}

constexpr int kPushThreads = 256;
constexpr int kMostPushBlocks = 64;

__device__ void copy_piece(char* to, const char* from, int bytes) {
  const auto thread = static_cast<int>(threadIdx.x);
  const uint64_t alignment = reinterpret_cast<uint64_t>(to) | reinterpret_cast<uint64_t>(from) |
                             static_cast<uint64_t>(bytes);
  if (alignment % 16 != 0) {
    for (int i = thread; i < bytes; i += kPushThreads) to[i] = from[i];
    return;
  }
  constexpr int kUnroll = kPushPieceBytes / 16 / kPushThreads;
  const auto* source = reinterpret_cast<const int4*>(from);
  auto* target = reinterpret_cast<int4*>(to);
  const int count = bytes / 16;
  int4 held[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (thread + u * kPushThreads < count) held[u] = source[thread + u * kPushThreads];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (thread + u * kPushThreads < count) target[thread + u * kPushThreads] = held[u];
}

__global__ void __launch_bounds__(kPushThreads, 2)
    push_kernel(const PushPiece* __restrict__ pieces, int num_pieces, const char* own,
                const __grid_constant__ Buffers peers, const __grid_constant__ Words words,
                int num_words, uint32_t value, uint32_t* counter) {
  for (int i = static_cast<int>(blockIdx.x); i < num_pieces; i += static_cast<int>(gridDim.x)) {
    const PushPiece piece = pieces[i];
    copy_piece(peers.at[piece.peer] + piece.offset, own + piece.offset, piece.bytes);
  }
  // The block that is done last signals. Its fence covers what the barrier and the counter have
  // made it see: all blocks' stores.
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence_system();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence_system();
  for (int i = static_cast<int>(threadIdx.x); i < num_words; i += kPushThreads)
    store_release(words.at[i], value);
  if (threadIdx.x == 0) *counter = 0;
}

Words pack(uint32_t* const* words, int num_words) {
  Words packed{};
  std::copy(words, words + num_words, packed.at);
  return packed;
}

}  // namespace

void write_words(cudaStream_t stream, uint32_t* const* words, int num_words, uint32_t value) {
  write_kernel<<<1, 32, 0, stream>>>(pack(words, num_words), num_words, value);
  LH_CUDA_LAUNCH("write_kernel");
}

void wait_for_words(cudaStream_t stream, uint32_t* const* words, int num_words, uint32_t value) {
  wait_kernel<<<1, 32, 0, stream>>>(pack(words, num_words), num_words, value);
  LH_CUDA_LAUNCH("wait_kernel");
}

void push_pieces(cudaStream_t stream, const PushTask& task) {
  Buffers peers{};
  for (int r = 0; r < task.num_peers; ++r) peers.at[r] = static_cast<char*>(task.peers[r]);
  const int blocks = std::clamp(task.num_pieces, 1, kMostPushBlocks);
  push_kernel<<<static_cast<unsigned>(blocks), kPushThreads, 0, stream>>>(
      task.pieces, task.num_pieces, static_cast<const char*>(task.own), peers,
      pack(task.words, task.num_words), task.num_words, task.value, task.counter);
  LH_CUDA_LAUNCH("push_kernel");
}

}  // namespace longhaul::comm::cuda
