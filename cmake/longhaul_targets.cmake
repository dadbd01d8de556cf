# Warnings, sanitizers and the two functions by which every target is declared.
add_library(longhaul_flags INTERFACE)
# Places in messages are paths of the source tree, wherever it was built.
target_compile_options(longhaul_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>)
target_compile_options(longhaul_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Woverloaded-virtual)
if(LONGHAUL_WERROR)
  target_compile_options(longhaul_flags INTERFACE -Werror)
endif()
if(LONGHAUL_SANITIZE)
  target_compile_options(longhaul_flags INTERFACE
    -fsanitize=${LONGHAUL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(longhaul_flags INTERFACE -fsanitize=${LONGHAUL_SANITIZE})
endif()

# longhaul_library(name SOURCES ... LINK ...): one box of the architecture.
function(longhaul_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${A_LINK} PRIVATE ${A_PRIVATE_LINK} longhaul_flags)
endfunction()

# longhaul_test(name SOURCES ... LINK ... LABEL unit [TIMEOUT s]): a GoogleTest program without MPI.
function(longhaul_test name)
  cmake_parse_arguments(A "" "LABEL;TIMEOUT" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_LINK} longhaul_flags GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    LONGHAUL_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
    LONGHAUL_BINARY="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/longhaul")
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABEL}" TIMEOUT ${A_TIMEOUT})
endfunction()

# longhaul_mpi_test(name SOURCES ... LINK ... RANKS 1 2 4): the same program under mpirun at each count.
# Its main() is tests/support/mpi_main.cpp.
function(longhaul_mpi_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LINK;RANKS" ${ARGN})
  add_executable(${name} ${A_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/mpi_main.cpp)
  target_link_libraries(${name} PRIVATE ${A_LINK} longhaul_comm longhaul_mpi longhaul_flags GTest::gtest)
  target_compile_definitions(${name} PRIVATE
    LONGHAUL_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  foreach(np ${A_RANKS})
    add_test(NAME ${name}.np${np} COMMAND ${PROJECT_SOURCE_DIR}/scripts/mpirun.sh -np ${np} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.np${np} PROPERTIES LABELS "mpi" TIMEOUT ${A_TIMEOUT} PROCESSORS 2)
  endforeach()
endfunction()

# longhaul_cuda_library(name ARCHITECTURES ... SOURCES ... LINK ...): one box of the architecture with
# kernels in it (.cu and .cpp). The C++ sources get the project's warnings, the kernels nvcc's own.
# fmt 9 takes nvcc for a compiler without constexpr, and then cannot check its format strings.
function(longhaul_cuda_library name)
  cmake_parse_arguments(A "" "" "ARCHITECTURES;SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  set_target_properties(${name} PROPERTIES 
    CUDA_ARCHITECTURES "${A_ARCHITECTURES}" CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${A_LINK} PRIVATE ${A_PRIVATE_LINK})
  target_compile_definitions(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
  target_compile_options(${name} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:$<TARGET_PROPERTY:longhaul_flags,INTERFACE_COMPILE_OPTIONS>>")
endfunction()
