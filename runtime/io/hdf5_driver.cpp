#include "runtime/io/hdf5_driver.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace longhaul::io {
namespace {

static_assert(sizeof(hid_t) == sizeof(int64_t));

// HDF5 hands back its own base struct, which must come first.
struct DriverFile {
  H5FD_t base;
  Hdf5Channel* channel;
  haddr_t eoa;  // end of the space that HDF5 has allocated
};
static_assert(std::is_standard_layout_v<DriverFile>);

DriverFile* as_file(H5FD_t* file) {
  return reinterpret_cast<DriverFile*>(file);
}
const DriverFile* as_file(const H5FD_t* file) {
  return reinterpret_cast<const DriverFile*>(file);
}

constexpr haddr_t kMaxAddress = static_cast<haddr_t>(INT64_MAX);

H5FD_t* driver_open(const char* name, unsigned flags, hid_t file_access, haddr_t) {
  const auto* info = static_cast<Hdf5Channel* const*>(H5Pget_driver_info(file_access));
  if (info == nullptr || *info == nullptr) return nullptr;
  Hdf5Channel* channel = *info;
  if (channel->in_use || channel->path != name) return nullptr;
  if ((flags & H5F_ACC_RDWR) != 0 && !channel->writable) return nullptr;
  if ((flags & H5F_ACC_TRUNC) != 0) {
    if (!channel->writable || ::ftruncate(channel->fd, 0) != 0) return nullptr;
    channel->size = 0;
  }
  auto file = std::make_unique<DriverFile>();
  file->channel = channel;
  channel->in_use = true;
  return reinterpret_cast<H5FD_t*>(file.release());
}

herr_t driver_close(H5FD_t* file) {
  std::unique_ptr<DriverFile> owned(as_file(file));
  owned->channel->in_use = false;
  return 0;
}

int driver_compare(const H5FD_t* a, const H5FD_t* b) {
  const std::less<const Hdf5Channel*> less;
  if (less(as_file(a)->channel, as_file(b)->channel)) return -1;
  return as_file(a)->channel == as_file(b)->channel ? 0 : 1;
}

herr_t driver_query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

haddr_t driver_get_eoa(const H5FD_t* file, H5FD_mem_t) {
  return as_file(file)->eoa;
}

herr_t driver_set_eoa(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  as_file(file)->eoa = address;
  return 0;
}

haddr_t driver_get_eof(const H5FD_t* file, H5FD_mem_t) {
  return static_cast<haddr_t>(as_file(file)->channel->size);
}

herr_t driver_read(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size, void* buffer) {
  if (address > kMaxAddress || size > kMaxAddress - address) return -1;
  char* out = static_cast<char*>(buffer);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(as_file(file)->channel->fd, out + done, size - done,
                              static_cast<off_t>(address + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  // HDF5 expects zeros behind the end, as its own drivers give.
  std::memset(out + done, 0, size - done);
  return 0;
}

// Lets the disk begin early, so that the sync at the end is not one long stall. Only a hint.
void start_write_back(Hdf5Channel& channel) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  if (channel.bytes_written - channel.flushed < kBytes) return;
  channel.flushed = channel.bytes_written;
  if (::sync_file_range(channel.fd, 0, 0, SYNC_FILE_RANGE_WRITE) != 0) return;
}

herr_t driver_write(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size,
                    const void* buffer) {
  Hdf5Channel& channel = *as_file(file)->channel;
  if (address > kMaxAddress || size > kMaxAddress - address) return -1;
  const char* in = static_cast<const char*>(buffer);
  size_t done = 0;
  while (done < size && channel.write_error == 0) {
    const ssize_t n =
        ::pwrite(channel.fd, in + done, size - done, static_cast<off_t>(address + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      channel.write_error = n < 0 ? errno : EIO;
      break;
    }
    done += static_cast<size_t>(n);
  }
  channel.bytes_written += static_cast<int64_t>(done);
  start_write_back(channel);
  channel.size = std::max(channel.size, static_cast<int64_t>(address + size));
  return 0;
}

herr_t driver_truncate(H5FD_t* file, hid_t, hbool_t) {
  Hdf5Channel& channel = *as_file(file)->channel;
  const auto end = static_cast<int64_t>(as_file(file)->eoa);
  if (!channel.writable || end == channel.size) return 0;
  if (channel.write_error == 0 && ::ftruncate(channel.fd, end) != 0) channel.write_error = errno;
  channel.size = end;
  return 0;
}

H5FD_class_t make_class() {
  H5FD_class_t c{};
#ifdef H5FD_CLASS_VERSION
  c.version = H5FD_CLASS_VERSION;
#endif
  c.name = "longhaul";
  c.maxaddr = kMaxAddress;
  c.fc_degree = H5F_CLOSE_WEAK;
  c.fapl_size = sizeof(Hdf5Channel*);
  c.open = driver_open;
  c.close = driver_close;
  c.cmp = driver_compare;
  c.query = driver_query;
  c.get_eoa = driver_get_eoa;
  c.set_eoa = driver_set_eoa;
  c.get_eof = driver_get_eof;
  c.read = driver_read;
  c.write = driver_write;
  c.truncate = driver_truncate;
  // All kinds of memory share one address space.
  const H5FD_mem_t one_list[] = H5FD_FLMAP_DICHOTOMY;
  static_assert(sizeof(one_list) == sizeof(c.fl_map));
  std::memcpy(c.fl_map, one_list, sizeof(one_list));
  return c;
}

}  // namespace

int64_t hdf5_channel_driver() {
  static const H5FD_class_t driver_class = make_class();
  static const hid_t id = H5FDregister(&driver_class);
  return id;
}

int set_hdf5_channel(int64_t file_access, Hdf5Channel* channel) {
  const int64_t driver = hdf5_channel_driver();
  if (driver < 0) return -1;
  return H5Pset_driver(file_access, driver, &channel);
}

}  // namespace longhaul::io
