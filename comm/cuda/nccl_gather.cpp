#include "comm/cuda/nccl_gather.h"

namespace longhaul::comm::cuda {

std::unique_ptr<Gather> make_nccl_gather(Communicator&, std::string* why) {
  if (why != nullptr) *why = "longhaul was built without NCCL";
  return nullptr;
}

}  // namespace longhaul::comm::cuda
