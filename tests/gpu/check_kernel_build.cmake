# cmake -DNVCC=... -DROOT=... -DKERNELS="a.cu;b.cu" [-DARCHITECTURES="80;90"] -P check_kernel_build.cmake
# Compiles each kernel for each architecture (90a) and fails on what makes it slow without making it
# wrong: registers spilled to memory, and wgmma instructions the assembler serialised (its remarks C7510
# and the like).
if(NOT ARCHITECTURES)
  set(ARCHITECTURES 90a)
endif()
foreach(kernel ${KERNELS})
  foreach(arch ${ARCHITECTURES})
    execute_process(
      COMMAND ${NVCC} -std=c++20 -O3 -I${ROOT} -gencode=arch=compute_${arch},code=sm_${arch}
              -Xptxas -v --cubin -o /dev/null ${kernel}
      RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
    set(log "${out}${err}")
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "${kernel} does not compile for sm_${arch}:\n${log}")
    endif()
    if(NOT log MATCHES "bytes spill stores")
      message(FATAL_ERROR "${kernel}: no resource report from the assembler:\n${log}")
    endif()
    if(log MATCHES "[1-9][0-9]* bytes (stack frame|spill)|C75[0-9][0-9]|serialized")
      message(FATAL_ERROR "${kernel} would run slowly on sm_${arch}:\n${log}")
    endif()
    message(STATUS "${kernel}: no spills, no serialised wgmma on sm_${arch}")
  endforeach()
endforeach()
