#pragma once
// A slow and plain form of the experts for tests, and random data made on the device.

#include <cstddef>
#include <cstdint>

namespace longhaul::test {

struct ExpertsReference {
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int top_k = 0;
  bool bf16 = true;         // of x, gate_up, down and before; float otherwise
  const void* x = nullptr;  // all on the device
  const void* gate_up = nullptr;
  const void* down = nullptr;
  const int32_t* ids = nullptr;
  const float* weights = nullptr;
  const void* before = nullptr;  // added to the sum when not null
};

// Of `count` rows listed in `rows` (device): out [count, hidden] in double. `rounded`: with a
// rounding to bf16 wherever a plain bf16 computation stores a tensor (gate_up, act, each expert's
// output, the result).
void reference_experts(const ExpertsReference& r, const int64_t* rows, int64_t count, bool rounded,
                       double* out);

// Normal numbers times `scale`, the same for the same seed.
void fill_normal(void* data, size_t count, bool bf16, uint64_t seed, float scale);
// ids [rows, top_k], distinct within a row, uniform among num_experts; weights positive.
void fill_choices(int32_t* ids, float* weights, int64_t rows, int top_k, int num_experts,
                  uint64_t seed);

}  // namespace longhaul::test
