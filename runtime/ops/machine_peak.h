#pragma once
// The machine's arithmetic ceilings, measured, for ratios in `longhaul bench`.

namespace longhaul::ops {

struct MachinePeak {
  double f32_fma_flops = 0;   // FLOP/s, `num_threads` threads
  double bf16_dot_flops = 0;  // 0 where the CPU has no bf16 dot product
};

// Runs register-only loops for about `seconds` a figure on num_threads threads at once.
MachinePeak measure_machine_peak(int num_threads, double seconds = 0.3);

bool cpu_has_bf16_dot();     // AVX-512 BF16
const char* cpu_isa_name();  // widest instruction set used by our kernels

}  // namespace longhaul::ops
