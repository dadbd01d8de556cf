#pragma once
// Names for profilers (Nsight Systems): header-only, free when none is attached.

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <string>

namespace longhaul::cuda {

// The host work between construction and destruction, and what it enqueues.
class NvtxRange {
 public:
  NvtxRange(const char* name, int layer) {
    nvtxRangePushA(layer < 0 ? name : fmt::format("{} {}", name, layer).c_str());
  }
  ~NvtxRange() { nvtxRangePop(); }
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace longhaul::cuda
