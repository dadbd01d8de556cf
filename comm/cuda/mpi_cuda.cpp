#include "comm/cuda/mpi_cuda.h"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

#include "comm/mpi_transport.h"
#include "comm/planned_communicator.h"

namespace longhaul::comm::cuda {
namespace {

bool mpi_takes_device_pointers() {
#if defined(MPIX_CUDA_AWARE_SUPPORT) && MPIX_CUDA_AWARE_SUPPORT
  return MPIX_Query_cuda_support() == 1;
#else
  return false;
#endif
}

}  // namespace

int64_t least_device_message(Communicator& comm) {
  int64_t least = 0;
  if (auto* planned = dynamic_cast<PlannedCommunicator*>(&comm); planned != nullptr)
    if (auto* mpi = dynamic_cast<MpiTransport*>(&planned->transport()); mpi != nullptr)
      if (mpi_takes_device_pointers()) least = mpi->options().inline_bytes + 1;
  comm.all_reduce(&least, 1, DType::i64, ReduceOp::min, {"CUDA-aware MPI"});
  return least;
}

}  // namespace longhaul::comm::cuda
