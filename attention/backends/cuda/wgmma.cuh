#pragma once
#include "runtime/core/cuda/wgmma.cuh"
