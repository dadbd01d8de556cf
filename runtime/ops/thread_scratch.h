#pragma once
// Per-thread helpers of the CPU operators: scratch memory that grows and stays, and the promise
// that a library called from our threads starts no threads of its own.

#include <cstddef>
#include <cstdint>

namespace longhaul::ops {

enum class ScratchSlot : int { source, destination, library, count };

// At least `bytes` bytes, 64-byte aligned, private to the calling thread and valid until the same
// thread asks for the same slot again. Accounted as MemoryUse::activations.
std::byte* thread_scratch(ScratchSlot slot, int64_t bytes);

// Debian's and Ubuntu's oneDNN run on OpenMP, whose teams would spin on cores that our pool already
// uses: makes OpenMP regions begun by the calling thread run on that thread alone. Cheap after the
// first call on a thread; call it before any oneDNN function.
void keep_libraries_single_threaded();

}  // namespace longhaul::ops
