#pragma once
// Launches one compiled shape of the sm_90a kernel. Each configuration is instantiated in a source
// file of its own, so that the slow compilations run side by side.

#include <cuda_runtime.h>

#include "attention/backends/cuda/attention_sm90_params.h"

namespace longhaul::attention::cuda::sm90 {

template <class C>
cudaError_t launch(const Params& params, int device, int blocks, cudaStream_t stream);

extern template cudaError_t launch<ConfigD64>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<ConfigD128>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<ConfigD192>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<ConfigD256>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<General<ConfigD64>>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<General<ConfigD128>>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<General<ConfigD192>>(const Params&, int, int, cudaStream_t);
extern template cudaError_t launch<General<ConfigD256>>(const Params&, int, int, cudaStream_t);

// Loads the kernel of launch_merge. A kernel's first launch may wait until the device is idle,
// which it is not while an attention kernel waits for rows that others still send.
cudaError_t load_merge();
// Joins the partial results of the kernel launched just before on the stream.
cudaError_t launch_merge(const MergeParams& params, int64_t num_merges, cudaStream_t stream);

}  // namespace longhaul::attention::cuda::sm90
