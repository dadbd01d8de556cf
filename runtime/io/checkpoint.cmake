list(APPEND io_sources json_checked.cpp file_handle.cpp config_reader.cpp rope_config.cpp
  model_config.cpp model_tensors.cpp safetensors_header.cpp safetensors_index.cpp safetensors.cpp
  random_checkpoint.cpp safetensors_writer.cpp)
list(APPEND io_private_link PkgConfig::XXHASH)
