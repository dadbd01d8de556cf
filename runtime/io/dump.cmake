list(APPEND io_sources atomic_file.cpp glob.cpp hdf5_driver.cpp hdf5_file.cpp hdf5_dataset.cpp
  dump_digest.cpp manifest.cpp dump_steps.cpp dump_stream.cpp dump.cpp dump_reader.cpp merge.cpp
     run_attributes.cpp inspect.cpp)
list(APPEND io_private_link longhaul_hdf5 PkgConfig::XXHASH)
