# cmake -DNVCC=... -DROOT=... -DKERNELS="a.cu;b.cu" -P check_portable_build.cmake
# Compiles each kernel for Ampere and Hopper and fails on registers spilled to memory, which make it
# slow without making it wrong.
foreach(kernel ${KERNELS})
  foreach(arch 80 90)
    execute_process(
      COMMAND ${NVCC} -std=c++17 -O3 -I${ROOT} -gencode=arch=compute_${arch},code=sm_${arch}
              -Xptxas -v --cubin -o /dev/null ${kernel}
      RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
    set(log "${out}${err}")
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "${kernel} does not compile for sm_${arch}:\n${log}")
    endif()
    if(NOT log MATCHES "bytes spill stores")
      message(FATAL_ERROR "${kernel}: no resource report from the assembler:\n${log}")
    endif()
    if(log MATCHES "[1-9][0-9]* bytes (stack frame|spill)")
      message(FATAL_ERROR "${kernel} spills on sm_${arch}:\n${log}")
    endif()
    message(STATUS "${kernel}: no spills on sm_${arch}")
  endforeach()
endforeach()
