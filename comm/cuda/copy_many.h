#pragma once
// Many copies in one call, by the copy engines where these can.

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "comm/cuda/gather.h"

namespace longhaul::comm::cuda {

// Copies in the order of the stream, in no order among themselves. Any mix of device, peer and
// page-locked memory.
class CopyList {
 public:
  void clear();
  // Longer copies are cut; 0: none is.
  void set_longest(int64_t bytes) { longest_ = bytes; }
  void add(void* to, const void* from, int64_t bytes);
  // The segments of one buffer to the same places of another.
  void add_segments(void* to, const void* from, const std::vector<Segment>& segments);
  // Segments of `buffer` to, or from, an area in which they lie packed.
  void add_pack(void* packed, const void* buffer, const std::vector<Segment>& segments);
  void add_unpack(void* buffer, const void* packed, const std::vector<Segment>& segments);
  // Up to `few` copies go by a call each, more by one call for all.
  void enqueue(cudaStream_t stream, int few = kFewCopies) const;
  static constexpr int kFewCopies = 1;

 private:
  int64_t longest_ = 0;
  std::vector<void*> to_;
  std::vector<const void*> from_;
  std::vector<size_t> bytes_;
};

inline void* at(void* base, int64_t offset) {
  return static_cast<char*>(base) + offset;
}
inline const void* at(const void* base, int64_t offset) {
  return static_cast<const char*>(base) + offset;
}

}  // namespace longhaul::comm::cuda
