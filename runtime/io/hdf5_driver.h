#pragma once
// A virtual file driver for HDF5, for two reasons.
//
// Writing: when the disk is full, HDF5 1.10 keeps dirty metadata that it can never flush; closing
// then fails, or the process hangs at exit. Here the first failed write is remembered and later
// ones are swallowed, so that HDF5 always closes in good order and the caller throws one clear
// error. Reading: external links and virtual datasets open other files through the driver of the
// file that names them; this driver opens the one file it was made for and refuses any other.
//
// Needs hdf5.h nowhere: ids are int64_t (hid_t since HDF5 1.10).

#include <cstdint>
#include <string>

namespace longhaul::io {

// The open file behind one HDF5 file; outlives it.
struct Hdf5Channel {
  std::string path;
  int fd = -1;
  bool writable = false;
  bool in_use = false;        // HDF5 holds it open
  int write_error = 0;        // errno of the first write that failed
  int64_t bytes_written = 0;  // until then
  int64_t size = 0;           // of the file on disk
  int64_t flushed = 0;        // bytes_written when the disk was last told to begin
};

// The id of the driver, registered on first use.
int64_t hdf5_channel_driver();

// Sets the driver and its channel on a file access property list; returns HDF5's status.
int set_hdf5_channel(int64_t file_access, Hdf5Channel* channel);

}  // namespace longhaul::io
