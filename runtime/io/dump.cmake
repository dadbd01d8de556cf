list(APPEND io_sources atomic_file.cpp glob.cpp hdf5_driver.cpp hdf5_file.cpp hdf5_dataset.cpp
  manifest.cpp dump.cpp dump_reader.cpp merge.cpp dump_statistics.cpp)
list(APPEND io_private_link longhaul_hdf5 PkgConfig::XXHASH)
