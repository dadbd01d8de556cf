#pragma once
#include <memory>

#include "attention/backend.h"

namespace longhaul::attention::cuda {
std::unique_ptr<Backend> make_cuda_backend();
}  // namespace longhaul::attention::cuda
