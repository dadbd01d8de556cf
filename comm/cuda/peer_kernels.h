#pragma once
// Small kernels that store into other GPUs' memory. Nowhere more than kMostPeers peers or words.

#include <cuda_runtime.h>

#include <cstdint>

namespace longhaul::comm::cuda {

constexpr int kMostPeers = 128;

// As Signals::write and Signals::wait.
void write_words(cudaStream_t stream, uint32_t* const* words, int num_words, uint32_t value);
void wait_for_words(cudaStream_t stream, uint32_t* const* words, int num_words, uint32_t value);

// A piece of a segment: bytes [offset, offset + bytes) of the buffer go to `peer`.
struct PushPiece {
  int64_t offset;
  int32_t bytes;
  int32_t peer;
};
constexpr int32_t kPushPieceBytes = 16 << 10;

// The pieces (device memory) of `own` go to the same places of the peers' buffers; then `value`
// goes to every word.
struct PushTask {
  const PushPiece* pieces = nullptr;
  int num_pieces = 0;
  const void* own = nullptr;
  void* const* peers = nullptr;  // [num_peers] by rank, own included
  int num_peers = 0;
  uint32_t* const* words = nullptr;
  int num_words = 0;
  uint32_t value = 0;
  uint32_t* counter = nullptr;  // a word of device memory that is 0, and is again afterwards
};
void push_pieces(cudaStream_t stream, const PushTask& task);

}  // namespace longhaul::comm::cuda
