# The attention kernels that need no Hopper instruction: portable.h. Added where CUDA is found. Each
# pair of kernels is a source file, so that they compile side by side.
longhaul_cuda_library(longhaul_attention_portable
  ARCHITECTURES ${longhaul_portable_architectures}
  SOURCES portable.cpp portable_plan.cpp portable_bf16_d64.cu portable_bf16_d128.cu
    portable_bf16_d192.cu portable_bf16_d256.cu portable_f32_dv128.cu portable_f32_dv256.cu
  LINK longhaul_core_cuda)
