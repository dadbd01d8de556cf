#pragma once
// Flash-style tiled attention on CPU cores: bf16 with float32 accumulation, and float32.

#include <memory>

#include "attention/backend.h"

namespace longhaul::attention {

std::unique_ptr<Backend> make_cpu_backend();

}  // namespace longhaul::attention
