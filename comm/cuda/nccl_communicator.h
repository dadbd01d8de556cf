#pragma once
// The Communicator between GPUs: NCCL, brought up over another communicator.
//
// All pointers are of device memory. The operations of the Communicator interface run on a stream
// of their own: what they read must be ready, or in a stream that was given to follow(). Their
// requests are waited for under the watchdog of the bootstrap communicator; the enqueue_ forms put
// the same operations into a stream of the caller's and return at once. On an error NCCL's
// communicator is aborted on this rank and Error(peer_lost) names the operation.
//
// NVLink multicast (NVLS) stays off, unless the environment sets NCCL_NVLS_ENABLE itself.

#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <string>

#include "comm/communicator.h"

namespace longhaul::comm::cuda {

class NcclCommunicator : public Communicator {
 public:
  // What goes to or comes from another rank. Between two ranks, the transfers of one exchange pair
  // up in their order.
  struct Transfer {
    int peer;
    void* data;
    int64_t bytes;
  };
  virtual void enqueue_exchange(std::span<const Transfer> sends, std::span<const Transfer> receives,
                                OpLabel label, cudaStream_t stream) = 0;
  // As their namesakes of Communicator; all_reduce takes bf16 and f16 too.
  virtual void enqueue_all_gather_v(const void* send, int64_t send_bytes, void* recv,
                                    std::span<const int64_t> recv_bytes, OpLabel label,
                                    cudaStream_t stream) = 0;
  virtual void enqueue_all_to_all_v(const void* send, std::span<const int64_t> send_bytes,
                                    void* recv, std::span<const int64_t> recv_bytes, OpLabel label,
                                    cudaStream_t stream) = 0;
  virtual void enqueue_send_recv(const void* send, int64_t send_bytes, int to, void* recv,
                                 int64_t recv_bytes, int from, OpLabel label,
                                 cudaStream_t stream) = 0;
  virtual void enqueue_all_reduce(void* data, int64_t count, DType dtype, ReduceOp op,
                                  OpLabel label, cudaStream_t stream) = 0;
  virtual void enqueue_broadcast(void* data, int64_t bytes, int root, OpLabel label,
                                 cudaStream_t stream) = 0;
  // Later operations of the interface come after all that `stream` has so far.
  virtual void follow(cudaStream_t stream) = 0;
  virtual cudaStream_t stream() const = 0;
  virtual void check() = 0;  // asynchronous errors; throws Error(peer_lost)
};

// Collective over `bootstrap`, which must outlive it. The calling thread's device must be set.
// Throws Error(usage) on all ranks where NCCL is not built in or two ranks share a GPU.
std::unique_ptr<NcclCommunicator> make_nccl(Communicator& bootstrap);

bool nccl_built_in();
// Collective: why make_nccl would refuse, the same on all ranks; empty when it would not.
std::string why_no_nccl(Communicator& bootstrap);

std::string nccl_version();  // "2.28.9", of the library in use; empty where it is not built in

}  // namespace longhaul::comm::cuda
