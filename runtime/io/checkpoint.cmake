list(APPEND io_sources json_checked.cpp file_handle.cpp config_reader.cpp rope_config.cpp
  model_config.cpp model_tensors.cpp safetensors_header.cpp safetensors_index.cpp safetensors.cpp
  random_checkpoint.cpp safetensors_writer.cpp)
list(APPEND io_private_link PkgConfig::XXHASH)
# Random weights are promised to be the same bits on every machine, so no fused multiply-add.
set_source_files_properties(random_checkpoint.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
