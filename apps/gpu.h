#pragma once
// Which GPU a rank works on.

#include <string>
#include <vector>

#include "comm/mpi_session.h"

namespace longhaul::apps {

// What this build can do with GPUs and what this host has.
struct GpuInfo {
  bool built_in = false;
  bool nccl = false;
  std::string cuda_version;          // of the runtime, "13.0"; empty: not built in
  std::string why_none;              // why `devices` is empty
  std::vector<std::string> devices;  // one line each
};
GpuInfo gpu_info();

// The ranks of a host share its GPUs in turn: rank i of the host takes GPU i modulo their number
// (a launcher that shows each rank its own GPU leaves one). Makes it the calling thread's device.
// Warns once where ranks have to share. Throws Error(usage) where there is none.
void open_gpu(comm::MpiSession& session);

}  // namespace longhaul::apps
