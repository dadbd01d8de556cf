#pragma once
// Flash-style tiled attention on CPU cores: bf16 with float32 accumulation, and float32.
//
// The query heads of a KV head are stacked into the rows of a tile, so that a tile of keys and
// values is used by all of them. Keys are taken in order of position, in tiles with an online
// softmax (Dao et al., arXiv 2205.14135); tiles that no query of the task sees are skipped, and
// only tiles on the diagonal are masked. Tasks are (block of queries, KV head), the dearest first;
// where they are too few for the threads, long key ranges are cut and joined in a fixed order. A
// row's result does not depend on the values of other queries, nor on keys that it does not see,
// not even when those are NaN.

#include <memory>

#include "attention/backend.h"

namespace longhaul::attention {

struct CpuBackendOptions {
  // Compute bf16 inputs in float32 tiles, as a CPU without bf16 products must.
  bool widen_bf16 = false;
};
std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options);
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace longhaul::attention
