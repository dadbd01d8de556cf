#include "runtime/io/file_handle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/core/check.h"

namespace longhaul::io {

FileHandle FileHandle::open_regular(const std::filesystem::path& file) {
  FileHandle handle;
  handle.name_ = file.string();
  // O_NONBLOCK: opening a named pipe would wait for a writer for ever.
  handle.fd_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (handle.fd_ < 0)
    fail(ExitCode::corrupt, "{}: cannot be opened: {}", handle.name_, std::strerror(errno));
  struct stat status {};
  if (::fstat(handle.fd_, &status) != 0)
    fail(ExitCode::corrupt, "{}: cannot be examined: {}", handle.name_, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ExitCode::corrupt, "{}: not a regular file", handle.name_);
  return handle;
}

FileHandle::~FileHandle() {
  if (fd_ >= 0) (void)::close(fd_);  // read-only: nothing can be lost
}

FileHandle::FileHandle(FileHandle&& o) noexcept
    : fd_(std::exchange(o.fd_, -1)), name_(std::move(o.name_)) {}

FileHandle& FileHandle::operator=(FileHandle&& o) noexcept {
  std::swap(fd_, o.fd_);
  std::swap(name_, o.name_);
  return *this;
}

uint64_t FileHandle::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0)
    fail(ExitCode::corrupt, "{}: cannot be examined: {}", name_, std::strerror(errno));
  return static_cast<uint64_t>(status.st_size);
}

MappedFile::MappedFile(const std::filesystem::path& file)
    : handle_(FileHandle::open_regular(file)), name_(file.string()) {
  size_ = static_cast<size_t>(handle_.size());
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, handle_.fd(), 0);
  if (address == MAP_FAILED)
    fail(ExitCode::resource, "{}: {} bytes cannot be mapped: {}", name_, size_,
         std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

void MappedFile::unmap() {
  if (data_ != nullptr) (void)::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

MappedFile::~MappedFile() {
  unmap();
}

MappedFile::MappedFile(MappedFile&& o) noexcept
    : handle_(std::move(o.handle_)),
      name_(std::move(o.name_)),
      data_(std::exchange(o.data_, nullptr)),
      size_(std::exchange(o.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  if (this == &o) return *this;
  unmap();
  handle_ = std::move(o.handle_);
  name_ = std::move(o.name_);
  data_ = std::exchange(o.data_, nullptr);
  size_ = std::exchange(o.size_, 0);
  return *this;
}

void MappedFile::check_unchanged() const {
  const uint64_t now = handle_.size();
  if (now != size_)
    fail(ExitCode::corrupt,
         "{}: had {} bytes when it was opened and has {} now; do not write to a checkpoint in use",
         name_, size_, now);
}

void MappedFile::will_need(size_t begin, size_t count) const {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t first = begin / page * page;
  if (data_ == nullptr || count == 0) return;
  (void)::madvise(const_cast<std::byte*>(data_) + first, begin + count - first, MADV_WILLNEED);
}

void MappedFile::drop(size_t begin, size_t count) const {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t first = (begin + page - 1) / page * page;
  const size_t last = (begin + count) / page * page;
  if (data_ == nullptr || last <= first) return;
  (void)::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

}  // namespace longhaul::io
