#include "comm/cuda/peer_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <fstream>
#include <set>

#include "comm/fatal.h"
#include "runtime/core/cuda/device.h"

namespace longhaul::comm::cuda {
namespace {

// Allocations that are shared have a piece of the driver's own to themselves.
constexpr int64_t kGranularity = int64_t{2} << 20;

struct Card {
  char machine[48] = {};
  cudaIpcMemHandle_t handle{};
  cudaUUID_t gpu{};
  int32_t has_handle = 0;
};

template <class T>
std::vector<T> gather_all(Communicator& comm, const T& mine, const char* name) {
  std::vector<T> all(static_cast<size_t>(comm.size()));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof(T)));
  comm.all_gather_v(&mine, sizeof(T), all.data(), bytes, {name});
  return all;
}

}  // namespace

std::string machine_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  if (std::getline(file, id) && !id.empty()) return id.substr(0, 47);
  char host[48] = {};
  (void)gethostname(host, sizeof host - 1);
  return host;
}

PeerMemory::PeerMemory(Communicator& comm, int64_t bytes, const char* what)
    : comm_(comm),
      bytes_(bytes),
      exceptions_before_(std::uncaught_exceptions()),
      memory_((std::max<int64_t>(bytes, 1) + kGranularity - 1) / kGranularity * kGranularity, what,
              MemoryUse::exchange),
      addresses_(static_cast<size_t>(comm.size()), nullptr) {
  addresses_[static_cast<size_t>(comm.rank())] = memory_.data();
}

std::string PeerMemory::map_others() {
  Card mine;
  machine_id().copy(mine.machine, sizeof mine.machine - 1);
  cudaError_t error = cudaIpcGetMemHandle(&mine.handle, memory_.data());
  mine.has_handle = error == cudaSuccess;
  cudaDeviceProp properties{};
  LH_CUDA(cudaGetDeviceProperties(&properties, longhaul::cuda::current_device().ordinal));
  mine.gpu = properties.uuid;
  std::string why;
  if (error != cudaSuccess) why = fmt::format("cudaIpcGetMemHandle: {}", cudaGetErrorString(error));
  const std::vector<Card> all = gather_all(comm_, mine, "share GPU memory");
  std::set<std::string> gpus;
  for (const Card& card : all)
    if (!gpus.insert(std::string(card.gpu.bytes, sizeof card.gpu.bytes)).second) gpu_shared_ = true;
  for (int d = 1; d < comm_.size() && why.empty(); ++d) {
    const int r = (comm_.rank() + d) % comm_.size();
    const Card& card = all[static_cast<size_t>(r)];
    if (std::strcmp(card.machine, mine.machine) != 0) {
      why = fmt::format("rank {} is on another host", r);
    } else if (!card.has_handle) {
      why = fmt::format("rank {} cannot share its GPU's memory", r);
    } else {
      error = cudaIpcOpenMemHandle(&addresses_[static_cast<size_t>(r)], card.handle,
                                   cudaIpcMemLazyEnablePeerAccess);
      if (error == cudaSuccess) continue;
      addresses_[static_cast<size_t>(r)] = nullptr;
      why = fmt::format("rank {}'s GPU memory cannot be mapped: {}", r, cudaGetErrorString(error));
    }
  }
  (void)cudaGetLastError();
  return why;
}

std::unique_ptr<PeerMemory> PeerMemory::open(Communicator& comm, int64_t bytes, const char* what,
                                             std::string* why) {
  std::unique_ptr<PeerMemory> memory(new PeerMemory(comm, bytes, what));
  if (comm.size() == 1) return memory;
  struct Verdict {
    char text[160] = {};
  } mine;
  const std::string refusal = memory->map_others();
  refusal.copy(mine.text, sizeof mine.text - 1);
  const std::vector<Verdict> all = gather_all(comm, mine, "share GPU memory");
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].text[0] == 0) continue;
    if (why != nullptr) *why = fmt::format("rank {}: {}", r, all[r].text);
    return nullptr;
  }
  return memory;
}

PeerMemory::~PeerMemory() {
  for (int r = 0; r < comm_.size(); ++r)
    if (r != comm_.rank() && addresses_[static_cast<size_t>(r)] != nullptr)
      (void)cudaIpcCloseMemHandle(addresses_[static_cast<size_t>(r)]);
  if (comm_.size() == 1 || std::uncaught_exceptions() > exceptions_before_) return;
  // Memory that another rank still has mapped must not be freed.
  try {
    comm_.barrier({"release GPU memory"});
  } catch (...) {
    end_process(std::current_exception());
  }
}

}  // namespace longhaul::comm::cuda
