#pragma once
// Device memory that the ranks of one host share through CUDA IPC.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::comm::cuda {

// Names the running kernel: containers of one host share it, whatever their host names. At most 47
// characters.
std::string machine_id();

class PeerMemory {
 public:
  // Collective: every rank allocates `bytes` (the same on all ranks) and maps those of all others.
  // Null on all ranks where one of them cannot (another host, no peer access, ranks that are
  // threads of one process); `why` (may be null) then says which and why. Error(resource) when a
  // device has no room.
  static std::unique_ptr<PeerMemory> open(Communicator& comm, int64_t bytes, const char* what,
                                          std::string* why);
  // Collective, but while an error unwinds. Nobody's device may still use it.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  int64_t bytes() const { return bytes_; }
  void* own() const { return memory_.data(); }
  // [size] own included.
  std::span<void* const> addresses() const { return addresses_; }
  // Two of the ranks use one GPU: copies between them may take its multiprocessors.
  bool gpu_shared() const { return gpu_shared_; }

 private:
  PeerMemory(Communicator& comm, int64_t bytes, const char* what);
  std::string map_others();  // empty, or why not

  Communicator& comm_;
  const int64_t bytes_;
  const int exceptions_before_;
  longhaul::cuda::Buffer memory_;
  std::vector<void*> addresses_;
  bool gpu_shared_ = false;
};

}  // namespace longhaul::comm::cuda
