#pragma once
// Data to exchange whose every byte can be checked, and time that passes on a stream.

#include <cuda_runtime.h>

#include <cstdint>

namespace longhaul::comm::cuda {

// Bytes [offset, offset + bytes) of the buffer get what `seed` and their place in it say.
void fill_pattern(void* buffer, int64_t offset, int64_t bytes, uint64_t seed, cudaStream_t stream);
// Adds the number of bytes that are otherwise to *wrong (device memory).
void count_wrong(const void* buffer, int64_t offset, int64_t bytes, uint64_t seed,
                 unsigned long long* wrong, cudaStream_t stream);
// About so long; one warp spins.
void spin(double microseconds, cudaStream_t stream);

}  // namespace longhaul::comm::cuda
