#pragma once
#include "runtime/core/cuda/ptx.cuh"
