#pragma once
// Warpgroup matrix multiply (wgmma, sm_90a): D[64 x N] += A[64 x 16] * B[16 x N], bf16 in, f32 out.
// A comes from shared memory (ss) or registers (rs), B always from shared memory, every tile in
// 128-byte-swizzled slabs of 64 columns as TMA writes them (PTX ISA 8.0, "Asynchronous Warpgroup
// Level Matrix Instructions").
//
// Registers of thread t of the warpgroup (warp w = t / 32, lane l = t % 32): accumulator d[i] is
// row 16 w + l / 4 + 8 * ((i / 2) % 2), column 8 * (i / 4) + 2 * (l % 4) + i % 2.

#include <cstdint>

namespace longhaul::cuda::wgmma {

// ---- Shared-memory matrix descriptors. Offsets are added to a descriptor in units of 16 bytes.

constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;  // eight rows of 128 bytes further

// Rows are M or N, the 128-byte row runs along K (Q and K of Q K^T).
__device__ __forceinline__ uint64_t descriptor_k_major(uint32_t address) {
  return kSwizzle128 | kEightRows | (uint64_t{1} << 16) | ((address & 0x3ffff) >> 4);
}

// Rows are K, the 128-byte row runs along N (V of P V); slab_bytes from one 64-column slab to the
// next.
__device__ __forceinline__ uint64_t descriptor_n_major(uint32_t address, uint32_t slab_bytes) {
  return kSwizzle128 | kEightRows | (uint64_t{slab_bytes >> 4} << 16) | ((address & 0x3ffff) >> 4);
}

// ---- Ordering.

// Before the first wgmma after its registers were written.
__device__ __forceinline__ void fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Ties registers to this place in the program, so that the compiler moves no use of them across it.
template <int kCount>
__device__ __forceinline__ void pin(float (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(r[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(uint32_t (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(r[i])::"memory");
}

// ---- The instruction for each N. The operand lists are spelt out by macros, eight registers each.

#define LH_G0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define LH_G1 "%8,%9,%10,%11,%12,%13,%14,%15"
#define LH_G2 "%16,%17,%18,%19,%20,%21,%22,%23"
#define LH_G3 "%24,%25,%26,%27,%28,%29,%30,%31"
#define LH_G4 "%32,%33,%34,%35,%36,%37,%38,%39"
#define LH_G5 "%40,%41,%42,%43,%44,%45,%46,%47"
#define LH_G6 "%48,%49,%50,%51,%52,%53,%54,%55"
#define LH_G7 "%56,%57,%58,%59,%60,%61,%62,%63"
#define LH_G8 "%64,%65,%66,%67,%68,%69,%70,%71"
#define LH_G9 "%72,%73,%74,%75,%76,%77,%78,%79"
#define LH_G10 "%80,%81,%82,%83,%84,%85,%86,%87"
#define LH_G11 "%88,%89,%90,%91,%92,%93,%94,%95"
#define LH_G12 "%96,%97,%98,%99,%100,%101,%102,%103"
#define LH_G13 "%104,%105,%106,%107,%108,%109,%110,%111"
#define LH_G14 "%112,%113,%114,%115,%116,%117,%118,%119"
#define LH_G15 "%120,%121,%122,%123,%124,%125,%126,%127"
#define LH_LIST32 LH_G0 "," LH_G1 "," LH_G2 "," LH_G3
#define LH_LIST40 LH_LIST32 "," LH_G4
#define LH_LIST64 LH_LIST40 "," LH_G5 "," LH_G6 "," LH_G7
#define LH_LIST80 LH_LIST64 "," LH_G8 "," LH_G9
#define LH_LIST88 LH_LIST80 "," LH_G10
#define LH_LIST128 LH_LIST88 "," LH_G11 "," LH_G12 "," LH_G13 "," LH_G14 "," LH_G15

#define LH_A8(d, i)                                                                           \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define LH_ACC32(d) LH_A8(d, 0), LH_A8(d, 8), LH_A8(d, 16), LH_A8(d, 24)
#define LH_ACC40(d) LH_ACC32(d), LH_A8(d, 32)
#define LH_ACC64(d) LH_ACC40(d), LH_A8(d, 40), LH_A8(d, 48), LH_A8(d, 56)
#define LH_ACC80(d) LH_ACC64(d), LH_A8(d, 64), LH_A8(d, 72)
#define LH_ACC88(d) LH_ACC80(d), LH_A8(d, 80)
#define LH_ACC128(d) \
  LH_ACC88(d), LH_A8(d, 88), LH_A8(d, 96), LH_A8(d, 104), LH_A8(d, 112), LH_A8(d, 120)

// kAccumulate false starts from zero. kTransB: B is N-major.
template <int kN>
struct Mma;

#define LH_DEFINE_MMA(N, LIST, ACC, I0, I1, I2, I3, I4, I5, I6)                                   \
  template <>                                                                                     \
  struct Mma<N> {                                                                                 \
    template <int kAccumulate>                                                                    \
    static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b) {        \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" I2                                        \
                   ", 0;\n"                                                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" I0    \
                   ", %" I1 ", p, 1, 1, 0, 0;\n}\n"                                               \
                   : ACC(d)                                                                       \
                   : "l"(a), "l"(b), "r"(kAccumulate));                                           \
    }                                                                                             \
    template <int kAccumulate, int kTransB>                                                       \
    static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t* a, uint64_t b) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" I5                                        \
                   ", 0;\n"                                                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" I0   \
                   ", %" I1 ", %" I2 ", %" I3 "}, %" I4 ", p, 1, 1, %" I6 ";\n}\n"                \
                   : ACC(d)                                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(kAccumulate),        \
                     "n"(kTransB));                                                               \
    }                                                                                             \
  };

LH_DEFINE_MMA(64, LH_LIST32, LH_ACC32, "32", "33", "34", "35", "36", "37", "38")
LH_DEFINE_MMA(80, LH_LIST40, LH_ACC40, "40", "41", "42", "43", "44", "45", "46")
LH_DEFINE_MMA(128, LH_LIST64, LH_ACC64, "64", "65", "66", "67", "68", "69", "70")
LH_DEFINE_MMA(160, LH_LIST80, LH_ACC80, "80", "81", "82", "83", "84", "85", "86")
LH_DEFINE_MMA(176, LH_LIST88, LH_ACC88, "88", "89", "90", "91", "92", "93", "94")
LH_DEFINE_MMA(256, LH_LIST128, LH_ACC128, "128", "129", "130", "131", "132", "133", "134")

#undef LH_DEFINE_MMA

}  // namespace longhaul::cuda::wgmma
