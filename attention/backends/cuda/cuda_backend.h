#pragma once
// The GPU kernels as an attention backend of host tensors: every call copies queries, keys and
// values to the device and the result back. Tests and offline comparison use it; a model that lives
// on the GPU calls attention.h itself and asks this class only what it supports.

#include <memory>

#include "attention/backend.h"

namespace longhaul::attention {

// On the calling thread's device (the first where none was chosen), which is looked at in the first
// call of supports(): making the backend needs no GPU.
std::unique_ptr<Backend> make_cuda_backend();

}  // namespace longhaul::attention
