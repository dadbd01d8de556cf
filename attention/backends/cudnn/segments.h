#pragma once
// The items of attention.h as cuDNN can compute them: pieces that are causal with the last query
// seeing the last key (bottom-right), pieces without a mask, and queries that see nothing.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/backends/cuda/attention.h"

namespace longhaul::attention::cudnn {

struct Segment {
  enum class Mask : uint8_t { causal, full, unseen };
  Mask mask = Mask::full;
  int64_t q_row = 0;
  int64_t q_length = 0;  // > 0
  int64_t kv_row = 0;
  int64_t kv_length = 0;  // >= q_length where causal; 0 where unseen
};

// Every query of every item once, with exactly the keys the item shows it. Pure. Throws
// Error(internal) for items with pages and for rows or lengths below zero or past 2^30.
std::vector<Segment> make_segments(std::span<const cuda::Item> items);

}  // namespace longhaul::attention::cudnn
