#include "runtime/ops/thread_scratch.h"

#include <dlfcn.h>

#include <array>

#include "runtime/core/tensor.h"

namespace longhaul::ops {

std::byte* thread_scratch(ScratchSlot slot, int64_t bytes) {
  static thread_local std::array<Tensor, static_cast<size_t>(ScratchSlot::count)> slots;
  Tensor& held = slots[static_cast<size_t>(slot)];
  if (!held.defined() || held.num_bytes() < bytes) {
    held = Tensor();  // free first: the old contents are not wanted
    held = Tensor(DType::u8, {bytes});
  }
  return static_cast<std::byte*>(held.data());
}

void keep_libraries_single_threaded() {
  static thread_local bool done = false;
  if (done) return;
  // Looked up by name, since the OpenMP runtime comes (or not) with the library that uses it. The
  // setting is per thread, so every thread of a pool makes it for itself.
  using SetNumThreads = void (*)(int);
  static const auto set_num_threads =
      reinterpret_cast<SetNumThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set_num_threads != nullptr) set_num_threads(1);
  done = true;
}

}  // namespace longhaul::ops
